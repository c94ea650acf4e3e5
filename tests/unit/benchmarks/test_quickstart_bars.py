"""What benchmarks/quickstart.py judges."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def quickstart(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("quickstart")


def record(number: int, **seconds: float) -> dict[str, Any]:
    return {"step": number, "step_s": 10.0, "between_s": 0.05, "student_sequences": 8, "learn_s": 5.0} | seconds


@pytest.mark.parametrize(
    ("publish_s", "controller_s", "reached"),
    [
        (0.2, 0.05, [True, True]),
        (0.4, 0.05, [False, True]),
        (0.2, 0.2, [True, False]),  # though only 0.5 % of the time nothing else was under way
        (0.3, 0.1, [False, False]),  # less, not at most
    ],
)
def test_the_shares_are_of_the_steps_that_count(
    quickstart: ModuleType, publish_s: float, controller_s: float, reached: list[bool]
) -> None:
    warm_up = [record(number, publish_s=9.0, controller_s=9.0) for number in range(2)]
    kept = [record(number, publish_s=publish_s, controller_s=controller_s) for number in range(2, 5)]
    assert [met for _, met in quickstart.bars(quickstart.steady(warm_up + kept))] == reached


def test_a_run_of_too_few_steps_says_so(quickstart: ModuleType) -> None:
    with pytest.raises(SystemExit, match="2 steps are no more than the 2"):
        quickstart.steady([record(0, controller_s=0.0), record(1, controller_s=0.0)])
