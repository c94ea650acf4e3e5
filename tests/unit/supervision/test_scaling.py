"""The rule for the number of replicas, and a simulated ring that follows it."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.supervision.scaling import Decision, Pressure, decide

CALM = Pressure(elapsed_s=10.0, queue_depth=5, queue_capacity=10, num_in_flight=4, waited_s=0.0, blocked_s=0.0)
SHORT = replace(CALM, queue_depth=0, waited_s=5.0)
IDLE = replace(CALM, queue_depth=10, blocked_s=8.0)


def after(pressure: Pressure, times: int, current: int = 3, maximum: int = 8) -> int:
    last = None
    for _ in range(times):
        last = decide(pressure, current, 1, maximum, last)
        current = last.desired
    return current


@pytest.mark.parametrize(
    ("pressure", "times", "desired"),
    [
        (CALM, 9, 3),
        (SHORT, 2, 3),
        (SHORT, 3, 6),  # who waits half of the time needs twice as many
        (replace(SHORT, num_in_flight=6), 6, 8),
        (replace(SHORT, waited_s=10.0), 3, 6),  # twice as many is the most
        (replace(SHORT, waited_s=2.6), 3, 4),
        (IDLE, 2, 3),
        (IDLE, 3, 2),
        (replace(SHORT, queue_depth=4), 9, 3),  # there is something to take
        (replace(SHORT, queue_depth=7, num_taken=8), 3, 6),  # not as long as it is less than a batch
        (replace(SHORT, queue_depth=8, num_taken=8), 9, 3),
        (replace(SHORT, num_serving=1), 9, 3),  # two are being started, and one would need only one more
        (replace(SHORT, num_serving=2), 3, 4),
        (replace(SHORT, waited_s=0.5), 9, 3),
        (replace(SHORT, num_in_flight=2), 9, 3),  # replicas without work would not become more useful
        (replace(IDLE, queue_depth=6), 9, 3),
        (replace(IDLE, blocked_s=3.0), 9, 3),  # 70 % of 3 replicas are 2.1: more than two can do
    ],
)
def test_only_lasting_pressure_moves_the_number(pressure: Pressure, times: int, desired: int) -> None:
    assert after(pressure, times) == desired


def test_one_calm_moment_begins_the_count_anew() -> None:
    last = None
    for pressure in (SHORT, SHORT, CALM, SHORT, SHORT):
        last = decide(pressure, 3, 1, 8, last)
        assert last.desired == 3


@pytest.mark.parametrize(("current", "desired"), [(0, 2), (1, 2), (9, 4)])
def test_limits_hold_at_once(current: int, desired: int) -> None:
    assert decide(CALM, current, 2, 4) == Decision(desired)


@pytest.mark.parametrize(("minimum", "maximum", "patience"), [(0, 2, 1), (3, 2, 1), (1, 2, 0)])
def test_contradictory_limits_are_refused(minimum: int, maximum: int, patience: int) -> None:
    with pytest.raises(ValueError, match="minimum"):
        decide(CALM, 2, minimum, maximum, patience=patience)


def test_pressure_without_time_is_refused() -> None:
    with pytest.raises(ValueError, match="elapsed_s"):
        replace(CALM, elapsed_s=0.0)


def simulate(
    current: int, demand: Callable[[int], float], minimum: int, maximum: int, num_decisions: int, capacity: int = 20
) -> list[int]:
    """Numbers of replicas over time, in a ring where each replica makes 1 item per second and the learner takes
    `demand(second)` per second from the queue; a decision every 10 s."""
    depth, last, numbers = 0.0, None, []
    for turn in range(num_decisions):
        waited = blocked = 0.0
        for second in range(10 * turn, 10 * turn + 10):
            wanted = demand(second)
            made = min(float(current), capacity - depth + wanted)  # the learner makes room while they work
            blocked += 1 - made / current
            taken = min(wanted, depth + made)
            waited += 1 - taken / wanted
            depth = min(capacity, depth + made - taken)
        pressure = Pressure(10.0, round(depth), capacity, current, waited, blocked)
        last = decide(pressure, current, minimum, maximum, last)
        current = last.desired
        numbers.append(current)
    return numbers


@given(start=st.integers(1, 8), demand=st.floats(0.3, 9.0), maximum=st.integers(1, 8))
def test_a_simulated_ring_settles_near_its_demand_and_stays_there(start: int, demand: float, maximum: int) -> None:
    numbers = simulate(start, lambda _: demand, 1, maximum, 120)
    changes = [new - old for old, new in itertools.pairwise(numbers) if new != old]
    assert len({change > 0 for change in changes}) <= 1, "up and down again under a steady demand"
    assert len(set(numbers[60:])) == 1
    settled = numbers[-1]
    assert 1 <= settled <= maximum
    if settled < maximum:
        assert demand / settled <= 1 / 0.9 + 0.01, "the learner waits for more than a tenth of its time"


@pytest.mark.parametrize("demand", [100.0, 1000.0, 9000.0])
def test_it_grows_from_one_to_thousands_in_few_changes(demand: float) -> None:
    numbers = simulate(1, lambda _: demand, 1, 10_000, 60, capacity=int(4 * demand))
    assert demand / 1.12 <= numbers[-1] <= demand
    assert len(set(numbers)) <= math.log2(demand) + 4
    assert numbers[44] == numbers[-1], "settled within 450 s"


def test_it_follows_a_demand_that_changes() -> None:
    numbers = simulate(1, lambda second: 4.0 if second < 600 else 1.5, 1, 8, 160)
    assert numbers[59] == 4
    assert numbers[-1] == 2


def test_a_demand_that_flutters_does_not_move_it() -> None:
    numbers = simulate(3, lambda second: 2.4 if second // 15 % 2 else 3.2, 1, 8, 120)
    assert set(numbers[30:]) == {numbers[-1]}
