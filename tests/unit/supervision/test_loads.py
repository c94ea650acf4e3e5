"""Who has the least to do is found without looking at all, and is whom a look at all would find."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.supervision.loads import Loads

ACTS = st.sampled_from(["begin", "end", "hide", "show"])
SLOTS = st.integers(0, 5)
STEPS = st.lists(st.tuples(ACTS, SLOTS, st.sets(SLOTS, max_size=3)), max_size=300)
"""What happens to which replica, and who is to be avoided afterwards."""


def replica(index: int) -> Any:
    return SimpleNamespace(slot=SimpleNamespace(index=index), requests=set(), is_shown=True)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_the_choice_is_that_of_a_look_at_all(steps: list[tuple[str, int, set[int]]]) -> None:
    everybody = [replica(index) for index in range(6)]
    loads: Loads[Any] = Loads(lambda each: each.is_shown, lambda: [each for each in everybody if each.is_shown])
    for each in everybody:
        loads.changed(each)
    for number, (what, index, avoided) in enumerate(steps):
        one = everybody[index]
        if what == "begin":
            one.requests.add(number)
            loads.changed(one)
        elif what == "end" and one.requests:
            one.requests.pop()
            loads.changed(one)
        elif what == "hide":
            one.is_shown = False
        elif what == "show" and not one.is_shown:
            one.is_shown = True
            loads.changed(one)
        avoid = [everybody[each] for each in avoided]
        open_ones = [each for each in everybody if each.is_shown and each not in avoid]
        assert loads.least(avoid) is min(open_ones, key=lambda each: len(each.requests), default=None)


def test_what_is_outdated_does_not_pile_up() -> None:
    one, other = replica(0), replica(1)
    loads: Loads[Any] = Loads(lambda _: True, lambda: [one, other])
    for turn in range(10_000):
        (one.requests.add if turn % 2 else one.requests.discard)(0)
        loads.changed(one)
        loads.changed(other)
    assert len(loads) < 200
    assert loads.least([]) is other
