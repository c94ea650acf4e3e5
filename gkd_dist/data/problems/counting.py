"""Word problems about counting things: sharing, packing, collecting, losing and comparing."""

from gkd_dist.data.problems.language import (
    BAKED,
    COLLECTED,
    DAYS,
    FRUITS,
    Draw,
    Problem,
    Template,
    are,
    noun,
)


def fair_shares(draw: Draw) -> Problem:
    who, item = draw.person(), draw.one_of(COLLECTED)
    friends, each, bags, kept = draw.number(3, 8), draw.number(4, 15), draw.number(2, 6), draw.number(2, 9)
    while (friends * each + kept) % bags:
        kept += 1
    total = friends * each + kept
    return Problem(
        f"{who.name} has {bags} bags with {item.count(total // bags)} in each. "
        f"{who.he.capitalize()} keeps {kept} of the {item.many} and shares the rest equally among {friends} friends. "
        f"How many {item.many} does each friend get?",
        (
            f"{who.name} has {bags} * {total // bags} = {item.count(total)}.",
            f"{who.he.capitalize()} shares {total} - {kept} = {item.count(total - kept)}.",
            f"Each friend gets {total - kept} / {friends} = {item.count(each)}.",
        ),
        each,
    )


def crates(draw: Draw) -> Problem:
    item = draw.one_of(FRUITS)
    number, rows, per_row, bad = draw.number(3, 9), draw.number(3, 6), draw.number(4, 9), draw.number(5, 35)
    per_crate = rows * per_row
    total = number * per_crate
    return Problem(
        f"A grocer receives {number} crates of {item.many}. In every crate there are {rows} rows of "
        f"{item.count(per_row)}. {bad} of the {item.many} are bruised and cannot be sold. "
        f"How many {item.many} can the grocer sell?",
        (
            f"A crate holds {rows} * {per_row} = {item.count(per_crate)}.",
            f"The crates hold {number} * {per_crate} = {item.count(total)} together.",
            f"The grocer can sell {total} - {bad} = {item.count(total - bad)}.",
        ),
        total - bad,
    )


def eaten_daily(draw: Draw) -> Problem:
    who, friend = draw.people(2)
    item, start = draw.one_of(BAKED), draw.one_of(DAYS)
    daily, days, given = draw.number(2, 4), draw.number(3, 6), draw.number(3, 9)
    left = draw.number(1, 12)
    total = daily * days + given + left
    return Problem(
        f"On {start} {who.name} bakes {item.count(total)}. {who.he.capitalize()} eats {daily} of them every day for "
        f"{days} days and gives {given} to {friend.name}. How many {item.many} are left?",
        (
            f"{who.name} eats {days} * {daily} = {item.count(days * daily)}.",
            f"Together with the gift, {days * daily} + {given} = {item.count(days * daily + given)} are gone.",
            f"There {are(left)} {total} - {days * daily + given} = {item.count(left)} left.",
        ),
        left,
    )


def three_collectors(draw: Draw) -> Problem:
    one, two, three = draw.people(3)
    item, base, fewer = draw.one_of(COLLECTED), draw.number(12, 60), draw.number(3, 10)
    double, last = 2 * base, 2 * base - fewer
    return Problem(
        f"{one.name} collects {item.count(base)}. {two.name} collects twice as many as {one.name}, and {three.name} "
        f"collects {fewer} fewer than {two.name}. How many {item.many} do they collect altogether?",
        (
            f"{two.name} collects 2 * {base} = {item.count(double)}.",
            f"{three.name} collects {double} - {fewer} = {item.count(last)}.",
            f"Altogether they collect {base} + {double} + {last} = {item.count(base + double + last)}.",
        ),
        base + double + last,
    )


def boxes_sold(draw: Draw) -> Problem:
    item, place = draw.one_of(BAKED), draw.one_of(("bakery", "tea room", "school kitchen", "small hotel"))
    per_box, boxes, price, eaten = draw.number(4, 12), draw.number(5, 20), draw.number(5, 15), draw.number(2, 9)
    total = per_box * boxes + eaten
    return Problem(
        f"The cooks of a {place} make {item.count(total)} and eat {eaten} of them. They pack the rest "
        f"into boxes of {per_box} and sell every box for ${price}. How much money do they take in?",
        (
            f"They pack {total} - {eaten} = {item.count(total - eaten)}.",
            f"They fill {total - eaten} / {per_box} = {boxes} boxes.",
            f"They take in {boxes} * ${price} = ${boxes * price}.",
        ),
        boxes * price,
    )


def school_trip(draw: Draw) -> Problem:
    classes, girls, more, adults = draw.number(2, 5), draw.number(8, 15), draw.number(2, 6), draw.number(2, 3)
    boys = girls + more
    pupils = girls + boys
    total = classes * pupils + classes * adults
    place = draw.one_of(("a farm", "a lighthouse", "a planetarium", "a chocolate factory", "a nature reserve"))
    return Problem(
        f"{classes} classes go on a trip to {place}. Each class has {girls} girls and {more} more boys than girls, and "
        f"{adults} adults go along with each class. How many people go on the trip?",
        (
            f"Each class has {girls} + {more} = {boys} boys.",
            f"With the adults, {girls} + {boys} + {adults} = {pupils + adults} people belong to each class.",
            f"On the trip there are {classes} * {pupils + adults} = {total} people.",
        ),
        total,
    )


def library(draw: Draw) -> Problem:
    shelves, per_shelf = draw.number(4, 12), draw.number(15, 40)
    lent, back, bought = draw.number(20, 50), draw.number(5, 19), draw.number(10, 40)
    first, second = draw.some_of(DAYS, 2)
    total = shelves * per_shelf
    return Problem(
        f"A small library has {shelves} shelves with {per_shelf} books each. On {first} readers borrow {lent} books "
        f"and return {back} others. On {second} the library buys {bought} new books. How many books does it have then?",
        (
            f"The shelves hold {shelves} * {per_shelf} = {total} books.",
            f"After the borrowing there are {total} - {lent} = {total - lent} books.",
            f"With the returned ones there are {total - lent} + {back} = {total - lent + back} books.",
            f"With the new ones there are {total - lent + back} + {bought} = {total - lent + back + bought} books.",
        ),
        total - lent + back + bought,
    )


def legs(draw: Draw) -> Problem:
    who = draw.person()
    two_legged = draw.one_of((noun("chicken"), noun("duck"), noun("goose", "geese"), noun("turkey")))
    four_legged = draw.one_of((noun("cow"), noun("goat"), noun("sheep", "sheep"), noun("horse"), noun("pig")))
    birds, beasts = draw.number(5, 40), draw.number(3, 25)
    total = 2 * birds + 4 * beasts
    return Problem(
        f"{who.name} has {two_legged.count(birds)} and {four_legged.count(beasts)} on {who.his} farm. "
        f"How many legs do these animals have altogether?",
        (
            f"The {two_legged.many} have {birds} * 2 = {2 * birds} legs.",
            f"The {four_legged.many} have {beasts} * 4 = {4 * beasts} legs.",
            f"Altogether they have {2 * birds} + {4 * beasts} = {total} legs.",
        ),
        total,
    )


def garden(draw: Draw) -> Problem:
    who = draw.person()
    crop, thief = (
        draw.one_of(("carrots", "cabbages", "radishes", "lettuces")),
        draw.one_of(("rabbits", "deer", "snails")),
    )
    rows, per_row, eaten, more = draw.number(4, 12), draw.number(6, 18), draw.number(5, 22), draw.number(1, 3)
    total = rows * per_row
    planted = more * per_row
    return Problem(
        f"{who.name} plants {rows} rows of {crop} with {per_row} {crop} in each row. During the night, {thief} eat "
        f"{eaten} of them. {who.he.capitalize()} then plants {more} more {'row' if more == 1 else 'rows'} of the same "
        f"length. How many {crop} grow in the garden now?",
        (
            f"At first there are {rows} * {per_row} = {total} {crop}.",
            f"After the night there are {total} - {eaten} = {total - eaten} {crop}.",
            f"The new planting adds {more} * {per_row} = {planted} {crop}.",
            f"Now {total - eaten} + {planted} = {total - eaten + planted} {crop} grow in the garden.",
        ),
        total - eaten + planted,
    )


def bus(draw: Draw) -> Problem:
    vehicle = draw.one_of(("bus", "tram", "ferry", "train"))
    first, off, on, second = draw.number(18, 45), draw.number(3, 9), draw.number(4, 14), draw.number(2, 3)
    middle = first - off + on
    first += -middle % second
    middle = first - off + on
    left = middle - middle // second
    share = {2: "half", 3: "a third"}[second]
    return Problem(
        f"A {vehicle} sets out with {first} passengers. At the first stop {off} of them get off and {on} new "
        f"passengers get on. At the second stop {share} of the passengers get off. "
        f"How many passengers are on the {vehicle} now?",
        (
            f"After the first stop there are {first} - {off} + {on} = {middle} passengers.",
            f"At the second stop {middle} / {second} = {middle // second} passengers get off.",
            f"Now there are {middle} - {middle // second} = {left} passengers on the {vehicle}.",
        ),
        left,
    )


def beads(draw: Draw) -> Problem:
    who = draw.person()
    thing = draw.one_of((noun("necklace"), noun("bracelet"), noun("key ring"), noun("lampshade")))
    color = draw.one_of(("red", "blue", "green", "glass", "wooden", "silver"))
    n, per, packs, size = draw.number(4, 12), draw.number(15, 40), draw.number(2, 4), draw.number(10, 20)
    needed, owned = n * per, packs * size
    return Problem(
        f"{who.name} wants to make {thing.count(n)} as presents. Each {thing.one} takes {per} {color} beads. "
        f"{who.he.capitalize()} has {packs} packs of {size} {color} beads. How many more beads does {who.he} need?",
        (
            f"The {thing.many} take {n} * {per} = {needed} beads.",
            f"{who.name} has {packs} * {size} = {owned} beads.",
            f"{who.he.capitalize()} needs {needed} - {owned} = {needed - owned} more beads.",
        ),
        needed - owned,
    )


def chairs(draw: Draw) -> Problem:
    event = draw.one_of(("a concert", "a school play", "a wedding", "a chess tournament", "a film night"))
    rows, per_row, extra = draw.number(6, 14), draw.number(8, 16), draw.number(5, 30)
    guests = rows * per_row - draw.number(4, per_row * 2)
    total = rows * per_row + extra
    return Problem(
        f"For {event}, helpers set up {rows} rows of {per_row} chairs and put {extra} more chairs along the wall. "
        f"{guests} people come, and each of them takes one chair. How many chairs stay empty?",
        (
            f"The rows have {rows} * {per_row} = {rows * per_row} chairs.",
            f"With those along the wall there are {rows * per_row} + {extra} = {total} chairs.",
            f"{total} - {guests} = {total - guests} chairs stay empty.",
        ),
        total - guests,
    )


TEMPLATES: tuple[Template, ...] = (
    fair_shares,
    crates,
    eaten_daily,
    three_collectors,
    boxes_sold,
    school_trip,
    library,
    legs,
    garden,
    bus,
    beads,
    chairs,
)
