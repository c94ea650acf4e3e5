"""How far gkd_dist comes in the time that a trainer takes."""

from collections.abc import Mapping, Sequence
from typing import Any

Steps = Sequence[Mapping[str, Any]]


def seconds(steps: Steps) -> float:
    return sum(step["step_s"] for step in steps)


def steps_in(given_s: Mapping[str, float], ours: Steps) -> dict[str, int]:
    """How many steps like `ours` fit into the seconds of each trainer, at least one.

    The mean of `ours` holds its slow first steps, as the seconds of the trainers hold theirs, and in larger part than
    a longer run does: what is asked for takes rather less than what is given. The start-up of both is left out.
    """
    step_s = seconds(ours) / len(ours)
    return {trainer: max(1, int(each / step_s)) for trainer, each in given_s.items()}


def in_the_time_of(given_s: Mapping[str, float], counts: Mapping[str, int], steps: Steps) -> dict[str, dict[str, Any]]:
    """By trainer, the steps that were taken for it, the seconds it gave, and those that these steps really took."""
    return {
        trainer: {
            "steps": counts[trainer],
            "given_s": round(each, 3),
            "used_s": round(seconds(steps[: counts[trainer]]), 3),
        }
        for trainer, each in given_s.items()
    }
