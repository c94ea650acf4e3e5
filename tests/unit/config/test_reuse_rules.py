"""`replay.max_uses` beside the keys that it depends on."""

import pytest

from tests import run_configs

MODELS = ("student.model=s", "teacher.model=t")


def problems(*settings: str) -> list[str]:
    return run_configs.problems_of("tiny", (*MODELS, *settings))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (("replay.max_uses=2",), "needs mode=async"),
        (("mode=async", "replay.max_uses=3"), "a sequence may be used at 2 step(s) before it is too stale"),
        (("mode=async", "replay.max_staleness=0", "replay.max_uses=2"), "set replay.max_staleness to 1 or more"),
        (("mode=async", "replay.max_uses=2", "objective.student_fraction=0"), "no step asks for one"),
    ],
)
def test_a_number_of_uses_that_cannot_be_is_an_error(settings: tuple[str, ...], problem: str) -> None:
    (found,) = problems(*settings)
    assert found.startswith("replay.max_uses: ") and problem in found


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("mode=async", "replay.max_staleness=0"),
        ("mode=async", "replay.max_uses=2"),
        ("mode=async", "replay.max_staleness=4", "replay.max_uses=5"),
        (
            "mode=async", "replay.max_uses=2", "objective.student_fraction=0", "objective.schedule.type=linear",
            "objective.schedule.final=1",
        ),
    ],
)  # fmt: skip
def test_others_are_taken(settings: tuple[str, ...]) -> None:
    assert problems(*settings) == []
