"""Word problems about money: prices, change, wages, savings, discounts and profit. All amounts are whole dollars."""

from gkd_dist.data.problems.language import BAKED, DAYS, FRUITS, TREASURES, WARES, Draw, Problem, Template, noun


def two_purchases(draw: Draw) -> Problem:
    who, (first, second) = draw.person(), draw.some_of(WARES, 2)
    n, m, x, y = draw.number(2, 9), draw.number(2, 9), draw.number(2, 12), draw.number(2, 12)
    return Problem(
        f"{who.name} buys {first.count(n)} at ${x} each and {second.count(m)} at ${y} each. "
        f"How much does {who.he} pay in total?",
        (
            f"The {first.many} cost {n} * ${x} = ${n * x}.",
            f"The {second.many} cost {m} * ${y} = ${m * y}.",
            f"{who.name} pays ${n * x} + ${m * y} = ${n * x + m * y} in total.",
        ),
        n * x + m * y,
    )


def change(draw: Draw) -> Problem:
    who, (first, second) = draw.person(), draw.some_of(WARES, 2)
    n, x, y = draw.number(2, 6), draw.number(2, 9), draw.number(3, 15)
    total = n * x + y
    bill = 20 if total < 20 else 50 if total < 50 else 100
    return Problem(
        f"At the market, {first.a} costs ${x} and {second.a} costs ${y}. {who.name} takes {first.count(n)} and "
        f"1 {second.one} and pays with a ${bill} bill. How much change does {who.he} get?",
        (
            f"The {first.many} cost {n} * ${x} = ${n * x}.",
            f"With the {second.one}, that makes ${n * x} + ${y} = ${total}.",
            f"{who.name} gets ${bill} - ${total} = ${bill - total} in change.",
        ),
        bill - total,
    )


def discount(draw: Draw) -> Problem:
    who, item = draw.person(), draw.one_of(TREASURES)
    extra = draw.one_of(WARES)
    price, percent, y = 20 * draw.number(3, 20), draw.one_of((5, 10, 15, 20, 25, 30, 40)), draw.number(4, 25)
    saved = price * percent // 100
    return Problem(
        f"A shop sells {item.a} for ${price}, but this week there is a {percent}% discount on it. {who.name} buys the "
        f"{item.one} and also {extra.a} for ${y}, which is not discounted. How much does {who.he} spend?",
        (
            f"The discount is ${price} * {percent} / 100 = ${saved}.",
            f"The {item.one} costs ${price} - ${saved} = ${price - saved}.",
            f"{who.name} spends ${price - saved} + ${y} = ${price - saved + y}.",
        ),
        price - saved + y,
    )


def savings(draw: Draw) -> Problem:
    who, item = draw.person(), draw.one_of(WARES)
    weekly, weeks, n, x = draw.number(6, 25), draw.number(4, 12), draw.number(2, 4), draw.number(2, 5)
    saved = weekly * weeks
    return Problem(
        f"{who.name} saves ${weekly} every week. After {weeks} weeks {who.he} buys {item.count(n)} for ${x} each. "
        f"How much of {who.his} savings does {who.he} have left?",
        (
            f"In {weeks} weeks {who.name} saves {weeks} * ${weekly} = ${saved}.",
            f"The {item.many} cost {n} * ${x} = ${n * x}.",
            f"{who.name} has ${saved} - ${n * x} = ${saved - n * x} left.",
        ),
        saved - n * x,
    )


def weeks_to_save(draw: Draw) -> Problem:
    who, item = draw.person(), draw.one_of(TREASURES)
    weeks, per_job, jobs, owned = draw.number(4, 15), draw.number(4, 12), draw.number(2, 4), draw.number(20, 90)
    weekly = per_job * jobs
    missing = weeks * weekly
    job = draw.one_of(("walks a neighbor's dog", "mows a lawn", "washes a car", "babysits for an evening"))
    return Problem(
        f"{who.name} wants to buy {item.a} that costs ${owned + missing}. {who.he.capitalize()} already has ${owned} "
        f"and earns ${per_job} each time {who.he} {job}, which {who.he} does {jobs} times a week. "
        f"After how many weeks can {who.he} buy the {item.one}?",
        (
            f"{who.name} still needs ${owned + missing} - ${owned} = ${missing}.",
            f"{who.he.capitalize()} earns {jobs} * ${per_job} = ${weekly} a week.",
            f"It takes ${missing} / ${weekly} = {weeks} weeks.",
        ),
        weeks,
    )


def overtime(draw: Draw) -> Problem:
    who = draw.person()
    wage, extra, hours = draw.number(11, 25), draw.number(3, 10), draw.number(2, 9)
    place = draw.one_of(("a bakery", "a garden center", "a bookshop", "a bicycle workshop", "a hotel", "a library"))
    normal = draw.one_of((20, 25, 30, 35, 40))
    base, over = normal * wage, hours * (wage + extra)
    return Problem(
        f"{who.name} works at {place} and earns ${wage} an hour for the first {normal} hours of a week. Every hour "
        f"beyond that is paid ${extra} more. How much does {who.he} earn in a week with {normal + hours} hours?",
        (
            f"The first {normal} hours bring {normal} * ${wage} = ${base}.",
            f"There are {normal + hours} - {normal} = {hours} hours of overtime.",
            f"An hour of overtime is paid ${wage} + ${extra} = ${wage + extra}.",
            f"The overtime brings {hours} * ${wage + extra} = ${over}.",
            f"{who.name} earns ${base} + ${over} = ${base + over}.",
        ),
        base + over,
    )


def stall_profit(draw: Draw) -> Problem:
    who, (one, two) = draw.person(), draw.some_of(BAKED, 2)
    n, m, x, y = draw.number(12, 40), draw.number(12, 40), draw.number(2, 4), draw.number(2, 5)
    earned = n * x + m * y
    cost = draw.number(10, 35)
    return Problem(
        f"At the school fair {who.name} sells {one.count(n)} for ${x} each and {two.count(m)} for ${y} each. "
        f"The ingredients cost {who.him} ${cost}. How much profit does {who.he} make?",
        (
            f"The {one.many} bring in {n} * ${x} = ${n * x}.",
            f"The {two.many} bring in {m} * ${y} = ${m * y}.",
            f"Altogether {who.name} takes in ${n * x} + ${m * y} = ${earned}.",
            f"{who.his.capitalize()} profit is ${earned} - ${cost} = ${earned - cost}.",
        ),
        earned - cost,
    )


def shared_bill(draw: Draw) -> Problem:
    who = draw.person()
    friends, percent = draw.number(2, 5), draw.one_of((10, 20))
    people = friends + 1
    meal = people * draw.number(3, 9) * (10 if percent == 10 else 5)
    tip = meal * percent // 100
    occasion = draw.one_of(("a birthday dinner", "a long lunch", "a farewell dinner", "a brunch party"))
    share = (meal + tip) // people
    return Problem(
        f"{who.name} and {friends} friends go out for {occasion}. The meal costs ${meal}, and they add a tip of "
        f"{percent}%. They split everything equally. How much does each of them pay?",
        (
            f"The tip is ${meal} * {percent} / 100 = ${tip}.",
            f"Altogether they pay ${meal} + ${tip} = ${meal + tip}.",
            f"There are 1 + {friends} = {people} people.",
            f"Each of them pays ${meal + tip} / {people} = ${share}.",
        ),
        share,
    )


def resale(draw: Draw) -> Problem:
    who, item = draw.person(), draw.one_of((*WARES, noun("second-hand book"), noun("old lamp")))
    n, kept, buy = draw.number(12, 30), draw.number(2, 5), draw.number(3, 12)
    sell = 2 * buy + draw.number(0, 4)
    paid, taken = n * buy, (n - kept) * sell
    return Problem(
        f"{who.name} buys {item.count(n)} at ${buy} each. {who.he.capitalize()} keeps {kept} of them and sells the "
        f"rest at ${sell} each. How much more money does {who.he} take in than {who.he} spent?",
        (
            f"{who.name} spends {n} * ${buy} = ${paid}.",
            f"{who.he.capitalize()} sells {n} - {kept} = {item.count(n - kept)}.",
            f"The sale brings in {n - kept} * ${sell} = ${taken}.",
            f"That is ${taken} - ${paid} = ${taken - paid} more than {who.he} spent.",
        ),
        taken - paid,
    )


def three_purses(draw: Draw) -> Problem:
    one, two, three = draw.people(3)
    times, more, base = draw.number(2, 4), draw.number(3, 20), draw.number(8, 40)
    middle, most = base + more, times * (base + more)
    factor = {2: "twice", 3: "three times", 4: "four times"}[times]
    return Problem(
        f"{one.name} has {factor} as much money as {two.name}. {two.name} has ${more} more than {three.name}, who has "
        f"${base}. How much money do the three of them have together?",
        (
            f"{two.name} has ${base} + ${more} = ${middle}.",
            f"{one.name} has {times} * ${middle} = ${most}.",
            f"Together they have ${most} + ${middle} + ${base} = ${most + middle + base}.",
        ),
        most + middle + base,
    )


def tickets(draw: Draw) -> Problem:
    place = draw.one_of(("the zoo", "the aquarium", "the science museum", "the water park", "the circus", "the castle"))
    adults, children = draw.number(2, 8), draw.number(3, 20)
    child = draw.number(4, 12)
    adult = 2 * child
    total = adults * adult + children * child
    return Problem(
        f"A child's ticket for {place} costs ${child}, and an adult's ticket costs twice as much. A group of {adults} "
        f"adults and {children} children visits {place} on {draw.one_of(DAYS)}. How much do their tickets cost?",
        (
            f"An adult's ticket costs 2 * ${child} = ${adult}.",
            f"The adults pay {adults} * ${adult} = ${adults * adult}.",
            f"The children pay {children} * ${child} = ${children * child}.",
            f"The tickets cost ${adults * adult} + ${children * child} = ${total}.",
        ),
        total,
    )


def weigh_and_pay(draw: Draw) -> Problem:
    who, (one, two) = draw.person(), draw.some_of(FRUITS, 2)
    a, b, x, y = draw.number(2, 9), draw.number(2, 9), draw.number(2, 5), draw.number(2, 5)
    total = a * x + b * y
    coupon = draw.number(2, min(9, total - 2))
    return Problem(
        f"{who.name} needs {a} kilograms of {one.many} and {b} kilograms of {two.many} for a picnic. The {one.many} "
        f"cost ${x} per kilogram and the {two.many} cost ${y} per kilogram. {who.he.capitalize()} has a coupon for "
        f"${coupon} off the total. How much does {who.he} pay?",
        (
            f"The {one.many} cost {a} * ${x} = ${a * x}.",
            f"The {two.many} cost {b} * ${y} = ${b * y}.",
            f"Without the coupon that is ${a * x} + ${b * y} = ${total}.",
            f"With the coupon {who.name} pays ${total} - ${coupon} = ${total - coupon}.",
        ),
        total - coupon,
    )


TEMPLATES: tuple[Template, ...] = (
    two_purchases,
    change,
    discount,
    savings,
    weeks_to_save,
    overtime,
    stall_profit,
    shared_bill,
    resale,
    three_purses,
    tickets,
    weigh_and_pay,
)
