"""How far gkd_dist comes in the time that a trainer takes."""

from collections.abc import Mapping, Sequence
from typing import Any

Steps = Sequence[Mapping[str, Any]]


def seconds(steps: Steps) -> float:
    return sum(step["step_s"] for step in steps)


def steps_in(given_s: Mapping[str, float], ours: Steps, warm_up: int) -> dict[str, int]:
    """How many steps of ours fit into the seconds of each trainer, at least one: the first `warm_up` of `ours` as they
    are, then steps like the others. The start-up of both is left out."""
    first_s = seconds(ours[:warm_up])
    step_s = seconds(ours[warm_up:]) / len(ours[warm_up:])
    return {trainer: max(1, warm_up + int((each - first_s) / step_s)) for trainer, each in given_s.items()}


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
