"""Word problems about rates: speed, distance, time, work, fuel and recipes."""

from gkd_dist.data.problems.language import BAKED, DAYS, Draw, Problem, Template, noun

KILOMETER = noun("kilometer")


def two_legs_of_a_drive(draw: Draw) -> Problem:
    who, vehicle = draw.person(), draw.one_of(("car", "van", "truck", "camper"))
    fast, slow, a, b = 5 * draw.number(10, 15), 5 * draw.number(4, 9), draw.number(2, 5), draw.number(2, 4)
    return Problem(
        f"{who.name} drives {who.his} {vehicle} for {a} hours at {fast} miles per hour on the highway and then for {b} "
        f"hours at {slow} miles per hour on country roads. How many miles does {who.he} drive in all?",
        (
            f"On the highway {who.name} drives {a} * {fast} = {a * fast} miles.",
            f"On country roads {who.he} drives {b} * {slow} = {b * slow} miles.",
            f"In all {who.he} drives {a * fast} + {b * slow} = {a * fast + b * slow} miles.",
        ),
        a * fast + b * slow,
    )


def fuel_cost(draw: Draw) -> Problem:
    who = draw.person()
    relative = draw.one_of(("grandmother", "uncle", "cousin", "sister", "brother", "best friend"))
    per_gallon, gallons, price = 2 * draw.number(10, 20), draw.number(3, 12), draw.number(3, 5)
    one_way = per_gallon * gallons // 2
    return Problem(
        f"{who.name} visits {who.his} {relative}, who lives {one_way} miles away, and drives back the same way. "
        f"{who.his.capitalize()} car goes {per_gallon} miles on a gallon of gas, and a gallon costs ${price}. "
        f"How much does the gas for the whole trip cost?",
        (
            f"The whole trip is 2 * {one_way} = {2 * one_way} miles.",
            f"The car needs {2 * one_way} / {per_gallon} = {gallons} gallons.",
            f"The gas costs {gallons} * ${price} = ${gallons * price}.",
        ),
        gallons * price,
    )


def reading(draw: Draw) -> Problem:
    who, book = draw.person(), draw.one_of(("a novel", "a book about whales", "a biography", "a detective story"))
    first, days, faster, rest = draw.number(10, 30), draw.number(3, 7), draw.number(2, 12), draw.number(4, 9)
    read, pace = first * days, first + faster
    pages = read + pace * rest
    return Problem(
        f"{who.name} is reading {book} of {pages} pages. For the first {days} days {who.he} reads {first} pages a day. "
        f"After that {who.he} reads {faster} more pages a day than before. "
        f"How many more days does {who.he} need to finish it?",
        (
            f"In the first {days} days {who.name} reads {days} * {first} = {read} pages.",
            f"Then {pages} - {read} = {pages - read} pages are left.",
            f"{who.he.capitalize()} now reads {first} + {faster} = {pace} pages a day.",
            f"{who.he.capitalize()} needs {pages - read} / {pace} = {rest} more days.",
        ),
        rest,
    )


def two_machines(draw: Draw) -> Problem:
    item = draw.one_of((noun("bottle"), noun("bolt"), noun("envelope"), noun("toy car"), noun("pencil"), noun("jar")))
    old, faster, minutes = draw.number(6, 25), draw.number(3, 15), draw.number(5, 40)
    new = old + faster
    total = (old + new) * minutes
    return Problem(
        f"The old machine of a factory makes {item.count(old)} per minute. The new machine makes {faster} more per "
        f"minute than the old one. Both run at the same time. How many minutes do they need for {item.count(total)}?",
        (
            f"The new machine makes {old} + {faster} = {item.count(new)} per minute.",
            f"Together they make {old} + {new} = {item.count(old + new)} per minute.",
            f"They need {total} / {old + new} = {minutes} minutes.",
        ),
        minutes,
    )


def leaking_tank(draw: Draw) -> Problem:
    tank = draw.one_of(("fish tank", "rain barrel", "paddling pool", "water trough", "garden pond"))
    leak, net, minutes, start = draw.number(1, 4), draw.number(3, 12), draw.number(10, 45), draw.number(5, 60)
    fill = leak + net
    final = start + net * minutes
    return Problem(
        f"A {tank} holds {start} liters of water. A hose adds {fill} liters every minute, while "
        f"{leak} {'liter leaks' if leak == 1 else 'liters leak'} out every minute. "
        f"How many liters are in the {tank} after {minutes} minutes?",
        (
            f"Every minute the amount of water grows by {fill} - {leak} = {net} liters.",
            f"In {minutes} minutes it grows by {minutes} * {net} = {net * minutes} liters.",
            f"After that the {tank} holds {start} + {net * minutes} = {final} liters.",
        ),
        final,
    )


def homework(draw: Draw) -> Problem:
    who, day = draw.person(), draw.one_of(DAYS)
    one, two = draw.some_of(("history", "French", "biology", "chemistry", "geography", "Spanish"), 2)
    problems, per, essay, pause = draw.number(5, 15), draw.number(2, 6), draw.number(15, 40), 5 * draw.number(1, 4)
    total = problems * per + essay + pause
    return Problem(
        f"On {day} {who.name} has {problems} {one} exercises to do, each of which takes {per} minutes. Then {who.he} "
        f"takes a break of {pause} minutes and studies {two} for {essay} minutes. "
        f"How many minutes pass from start to finish?",
        (
            f"The {one} exercises take {problems} * {per} = {problems * per} minutes.",
            f"With the break, {problems * per} + {pause} = {problems * per + pause} minutes have passed.",
            f"With {two}, {problems * per + pause} + {essay} = {total} minutes have passed.",
        ),
        total,
    )


def laps(draw: Draw) -> Problem:
    who = draw.person()
    meters, count = draw.one_of((200, 250, 300, 400, 500)), 2 * draw.number(2, 8)
    days, weeks = draw.number(2, 5), draw.one_of((2, 4, 5, 10))
    daily = meters * count
    kilometers, remainder = divmod(daily * days * weeks, 1000)
    if remainder:
        meters, daily = 500, 500 * count
        kilometers = daily * days * weeks // 1000
    return Problem(
        f"{who.name} runs {count} laps on a track that is {meters} meters long. {who.he.capitalize()} does this {days} "
        f"times a week for {weeks} weeks. How many kilometers does {who.he} run in this time?",
        (
            f"Each time {who.name} runs {count} * {meters} = {daily} meters.",
            f"In a week {who.he} runs {days} * {daily} = {days * daily} meters.",
            f"In {weeks} weeks {who.he} runs {weeks} * {days * daily} = {weeks * days * daily} meters.",
            f"That is {weeks * days * daily} / 1000 = {kilometers} kilometers.",
        ),
        kilometers,
    )


def recipe(draw: Draw) -> Problem:
    who, item = draw.person(), draw.one_of(BAKED)
    batch, batches = draw.number(6, 15), draw.number(3, 8)
    flour, sugar = draw.number(2, 5), draw.number(1, 3)
    return Problem(
        f"A recipe for {item.count(batch)} asks for {flour} cups of flour and "
        f"{sugar} {'cup' if sugar == 1 else 'cups'} of sugar. {who.name} wants to make {item.count(batch * batches)}. "
        f"How many cups of flour and sugar does {who.he} need altogether?",
        (
            f"{who.name} makes the recipe {batch * batches} / {batch} = {batches} times.",
            f"Each time it takes {flour} + {sugar} = {flour + sugar} cups of flour and sugar.",
            f"Altogether {who.he} needs {batches} * {flour + sugar} = {batches * (flour + sugar)} cups.",
        ),
        batches * (flour + sugar),
    )


def meeting(draw: Draw) -> Problem:
    one, two = draw.people(2)
    means, low, high = draw.one_of((("cycle", 9, 16), ("walk", 3, 5), ("jog", 7, 11)))
    a, b, hours, left = draw.number(low, high), draw.number(low, high), draw.number(2, 4), draw.number(1, 9)
    distance = (a + b) * hours + left
    return Problem(
        f"{one.name} and {two.name} live {distance} kilometers apart. They set out at the same time and {means} "
        f"towards each other, {one.name} at {a} kilometers per hour and {two.name} at {b} kilometers per hour. "
        f"How many kilometers apart are they after {hours} hours?",
        (
            f"Every hour they come {a} + {b} = {a + b} kilometers closer.",
            f"In {hours} hours they come {hours} * {a + b} = {hours * (a + b)} kilometers closer.",
            f"Then they are {distance} - {hours * (a + b)} = {KILOMETER.count(left)} apart.",
        ),
        left,
    )


def painters(draw: Draw) -> Problem:
    work = draw.one_of((("paint", "fence"), ("plaster", "wall"), ("clean", "gutter"), ("trim", "hedge")))
    one, two = draw.people(2)
    a, b, hours, extra = draw.number(4, 12), draw.number(4, 12), draw.number(2, 6), draw.number(2, 5)
    total = a * (hours + extra) + b * hours
    verb, thing = work
    return Problem(
        f"{one.name} can {verb} {a} meters of a {thing} in an hour and {two.name} can {verb} {b} meters in an hour. "
        f"They work together for {hours} hours, then {two.name} goes home and {one.name} works {extra} more hours. "
        f"How many meters of the {thing} do they {verb}?",
        (
            f"{two.name} does {hours} * {b} = {hours * b} meters.",
            f"{one.name} works {hours} + {extra} = {hours + extra} hours.",
            f"{one.name} does {hours + extra} * {a} = {(hours + extra) * a} meters.",
            f"Together they do {hours * b} + {(hours + extra) * a} = {total} meters.",
        ),
        total,
    )


def practice(draw: Draw) -> Problem:
    who = draw.person()
    instrument = draw.one_of(("the piano", "the violin", "the drums", "the flute", "the trumpet", "the cello"))
    weekday, weekend, weeks = 5 * draw.number(3, 9), 5 * draw.number(10, 18), draw.number(2, 12)
    week = 5 * weekday + 2 * weekend
    while week * weeks % 60:
        weeks += 1
    return Problem(
        f"{who.name} practices {instrument} for {weekday} minutes on each of the 5 weekdays and for {weekend} minutes "
        f"on each of the 2 days of the weekend. How many hours does {who.he} practice in {weeks} weeks?",
        (
            f"On weekdays {who.name} practices 5 * {weekday} = {5 * weekday} minutes.",
            f"On the weekend {who.he} practices 2 * {weekend} = {2 * weekend} minutes.",
            f"In a week that makes {5 * weekday} + {2 * weekend} = {week} minutes.",
            f"In {weeks} weeks it makes {weeks} * {week} = {weeks * week} minutes.",
            f"That is {weeks * week} / 60 = {weeks * week // 60} hours.",
        ),
        weeks * week // 60,
    )


TEMPLATES: tuple[Template, ...] = (
    two_legs_of_a_drive,
    fuel_cost,
    reading,
    two_machines,
    leaking_tank,
    homework,
    laps,
    recipe,
    meeting,
    painters,
    practice,
)
