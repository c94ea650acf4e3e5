"""Word problems about shares: fractions, percentages, ratios, averages and ages."""

from gkd_dist.data.problems.language import COLLECTED, FRUITS, Draw, Problem, Template, noun

POINT = noun("point")
FRACTIONS = ((1, 2), (1, 3), (2, 3), (1, 4), (3, 4), (1, 5), (2, 5), (3, 5))


def way_to_school(draw: Draw) -> Problem:
    part, whole = draw.one_of(FRACTIONS)
    per_car, cars = draw.number(3, 4), draw.number(3, 12)
    while per_car * cars % (whole - part):
        cars += 1
    riders = per_car * cars
    pupils = riders * whole // (whole - part)
    group = draw.one_of(("school", "summer camp", "choir", "sports club"))
    return Problem(
        f"{part}/{whole} of the {pupils} children of a {group} come on foot. All the others come by car, and {per_car} "
        f"children ride in each car. How many cars are there?",
        (
            f"{pupils} * {part} / {whole} = {pupils - riders} children come on foot.",
            f"The other {pupils} - {pupils - riders} = {riders} children come by car.",
            f"There are {riders} / {per_car} = {cars} cars.",
        ),
        cars,
    )


def part_of_the_rest(draw: Draw) -> Problem:
    (one, two), item = draw.people(2), draw.one_of(COLLECTED)
    (a, b), (c, d) = draw.one_of(FRACTIONS), draw.one_of(FRACTIONS)
    total = b * d * draw.number(3, 9)
    given = total * a // b
    rest = total - given
    sold = rest * c // d
    return Problem(
        f"{one.name} has {item.count(total)} and gives {a}/{b} of them to {two.name}. Then {one.he} sells "
        f"{c}/{d} of the rest. How many {item.many} does {one.he} have left?",
        (
            f"{one.name} gives away {total} * {a} / {b} = {item.count(given)}.",
            f"{one.he.capitalize()} keeps {total} - {given} = {item.count(rest)} at first.",
            f"{one.he.capitalize()} sells {rest} * {c} / {d} = {item.count(sold)}.",
            f"{one.he.capitalize()} has {rest} - {sold} = {item.count(rest - sold)} left.",
        ),
        rest - sold,
    )


def quiz_score(draw: Draw) -> Problem:
    who = draw.person()
    subject = draw.one_of(("spelling", "geography", "science", "music", "history", "traffic"))
    questions, percent = 20 * draw.number(1, 5), 5 * draw.number(11, 19)
    points, minus = draw.number(3, 6), draw.number(1, 2)
    right = questions * percent // 100
    wrong = questions - right
    lost = "1 point is" if minus == 1 else f"{minus} points are"
    return Problem(
        f"A {subject} test has {questions} questions. A right answer earns {points} points, and {lost} taken away for "
        f"a wrong one. {who.name} answers every question and gets {percent}% of them right. "
        f"How many points does {who.he} score?",
        (
            f"{who.name} gets {questions} * {percent} / 100 = {right} questions right.",
            f"{who.he.capitalize()} gets {questions} - {right} = {wrong} wrong.",
            f"The right answers earn {right} * {points} = {right * points} points.",
            f"The wrong answers take away {wrong} * {minus} = {POINT.count(wrong * minus)}.",
            f"{who.name} scores {right * points} - {wrong * minus} = {right * points - wrong * minus} points.",
        ),
        right * points - wrong * minus,
    )


def growth(draw: Draw) -> Problem:
    club = draw.one_of(("A chess club", "A village choir", "A gym", "A swimming club", "A film club", "A hiking club"))
    start, percent, left = 20 * draw.number(3, 25), draw.one_of((5, 10, 15, 20, 25, 30, 40, 50)), draw.number(3, 20)
    joined = start * percent // 100
    final = start + joined - left
    return Problem(
        f"{club} had {start} members at the start of last year. During that year the number grew by {percent}%. "
        f"This year {left} members left and nobody joined. How many members does it have now?",
        (
            f"Last year {start} * {percent} / 100 = {joined} members were added.",
            f"At the end of last year there were {start} + {joined} = {start + joined} members.",
            f"Now there are {start + joined} - {left} = {final} members.",
        ),
        final,
    )


def ages_in_years(draw: Draw) -> Problem:
    one, two = draw.people(2)
    times, young, years = draw.number(2, 5), draw.number(4, 14), draw.number(2, 12)
    old = times * young
    factor = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}[times]
    return Problem(
        f"{one.name} is {factor} as old as {two.name}, who is {young} years old. "
        f"How old will the two of them be together in {years} years?",
        (
            f"{one.name} is {times} * {young} = {old} years old.",
            f"In {years} years {one.name} will be {old} + {years} = {old + years} years old.",
            f"In {years} years {two.name} will be {young} + {years} = {young + years} years old.",
            f"Together they will be {old + years} + {young + years} = {old + young + 2 * years} years old.",
        ),
        old + young + 2 * years,
    )


def ages_of_three(draw: Draw) -> Problem:
    one, two, three = draw.people(3)
    youngest, gap, more, ago = draw.number(6, 20), draw.number(2, 9), draw.number(2, 9), draw.number(2, 5)
    middle, oldest = youngest + gap, youngest + gap + more
    return Problem(
        f"{one.name} is {more} years older than {two.name}, and {two.name} is {gap} years older than {three.name}. "
        f"{ago} years ago {three.name} was {youngest - ago} years old. How old is {one.name} now?",
        (
            f"{three.name} is {youngest - ago} + {ago} = {youngest} years old now.",
            f"{two.name} is {youngest} + {gap} = {middle} years old now.",
            f"{one.name} is {middle} + {more} = {oldest} years old now.",
        ),
        oldest,
    )


def mixing(draw: Draw) -> Problem:
    who, fruit = draw.person(), draw.one_of(FRUITS)
    juice, water = draw.one_of(((1, 2), (1, 3), (1, 4), (2, 3), (2, 5), (3, 4), (3, 5), (1, 5)))
    unit = draw.number(50, 250) // 10 * 10
    total = unit * (juice + water)
    parts = "1 part" if juice == 1 else f"{juice} parts"
    return Problem(
        f"{who.name} makes a drink out of {parts} of {fruit.one} juice and {water} parts of water. "
        f"{who.he.capitalize()} wants {total} milliliters of it. How many milliliters of water does {who.he} need?",
        (
            f"The drink has {juice} + {water} = {juice + water} equal parts.",
            f"One part is {total} / {juice + water} = {unit} milliliters.",
            f"{who.name} needs {water} * {unit} = {water * unit} milliliters of water.",
        ),
        water * unit,
    )


def wanted_average(draw: Draw) -> Problem:
    who = draw.person()
    game = draw.one_of(("bowling", "darts", "archery", "a quiz", "mini golf", "a video game"))
    scores = [draw.number(60, 120) for _ in range(3)]
    goal = sum(scores) // 3 + draw.number(2, 9)
    so_far = sum(scores)
    return Problem(
        f"In three rounds of {game} {who.name} scores {scores[0]}, {scores[1]} and {scores[2]} points. "
        f"How many points does {who.he} need in the fourth round for an average of {goal} points?",
        (
            f"For this average the four rounds must add up to 4 * {goal} = {4 * goal} points.",
            f"So far {who.name} has {scores[0]} + {scores[1]} + {scores[2]} = {so_far} points.",
            f"{who.he.capitalize()} needs {4 * goal} - {so_far} = {4 * goal - so_far} points in the fourth round.",
        ),
        4 * goal - so_far,
    )


def water_tank(draw: Draw) -> Problem:
    who = draw.person()
    (a, b), daily, days = draw.one_of(FRACTIONS), draw.number(4, 18), draw.number(3, 9)
    used = daily * days
    left = draw.number(5, 60)
    while (used + left) % a:
        left += 1
    volume = (used + left) * b // a
    place = draw.one_of(("cabin", "farm", "boat", "greenhouse", "campsite"))
    return Problem(
        f"The water tank of {who.name}'s {place} holds {volume} liters when it is full. Now it is {a}/{b} full. "
        f"{who.name} uses {daily} liters a day. How many liters are left after {days} days?",
        (
            f"Now the tank holds {volume} * {a} / {b} = {used + left} liters.",
            f"In {days} days {who.name} uses {days} * {daily} = {used} liters.",
            f"After that {used + left} - {used} = {left} liters are left.",
        ),
        left,
    )


def pizzas(draw: Draw) -> Problem:
    food = draw.one_of((noun("pizza"), noun("pie"), noun("tart"), noun("sheet cake")))
    who, slices, number = draw.person(), draw.one_of((6, 8, 10, 12)), draw.number(3, 9)
    total, each = slices * number, draw.number(2, 4)
    guests = draw.number(total // each // 2, (total - 1) // each)
    left = total - guests * each
    return Problem(
        f"{who.name} orders {food.count(number)} for a party and cuts each of them into {slices} slices. "
        f"Each of the {guests} people at the party eats {each} slices. "
        f"How many slices are left over?",
        (
            f"There are {number} * {slices} = {total} slices.",
            f"The people eat {guests} * {each} = {guests * each} slices.",
            f"{total} - {guests * each} = {left} {'slice is' if left == 1 else 'slices are'} left over.",
        ),
        left,
    )


def survey(draw: Draw) -> Problem:
    pets = draw.some_of(("a dog", "a cat", "a rabbit", "a parrot", "a hamster"), 2)
    first, second = draw.one_of((10, 20, 25, 30, 40)), draw.one_of((5, 10, 15, 20, 50))
    asked = 20 * draw.number(3, 20)
    a, b = asked * first // 100, asked * second // 100
    place = draw.one_of(("a school", "a village", "an office building", "a university", "a street fair"))
    return Problem(
        f"In a survey at {place}, {asked} people are asked about their pets. {first}% of them have {pets[0]}, "
        f"{second}% have {pets[1]}, and nobody has both. How many of them have neither {pets[0]} nor {pets[1]}?",
        (
            f"{asked} * {first} / 100 = {a} people have {pets[0]}.",
            f"{asked} * {second} / 100 = {b} people have {pets[1]}.",
            f"Together that is {a} + {b} = {a + b} people.",
            f"{asked} - {a + b} = {asked - a - b} people have neither.",
        ),
        asked - a - b,
    )


TEMPLATES: tuple[Template, ...] = (
    way_to_school,
    part_of_the_rest,
    quiz_score,
    growth,
    ages_in_years,
    ages_of_three,
    mixing,
    wanted_average,
    water_tank,
    pizzas,
    survey,
)
