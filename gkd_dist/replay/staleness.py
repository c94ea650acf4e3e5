"""Staleness of a trajectory, from policy versions alone (floor F2).

Staleness is counted in train steps: the learner's version when it trains on a trajectory, less the *oldest* version
that wrote any token of it. Fixed pairs were written by no version and never age. The teacher is frozen, so its
targets never age either.

Bound: a trajectory is admitted at learner version v with staleness v - oldest, and trained on at some v' >= v with
staleness v' - oldest. Versions never fall, so one that is inadmissible at v stays so; and if every draw at v' evicts
what is inadmissible at v' before it hands anything out, no train step ever sees more than `max_staleness`.
"""

from gkd_dist.types import VersionRange


def staleness(versions: VersionRange | None, learner_version: int) -> int:
    """Train steps between the oldest version that wrote a trajectory and the learner; 0 for a fixed pair (None).

    Raises:
        ValueError: the trajectory was written by a version the learner has not reached.
    """
    if versions is None:
        return 0
    if from_future(versions, learner_version):
        raise ValueError(
            f"written by policy version {versions.newest}, but the learner is at {learner_version}: "
            "a former attempt of the run is still sampling, or versions are mixed up"
        )
    return learner_version - versions.oldest


def from_future(versions: VersionRange | None, learner_version: int) -> bool:
    """Whether a version that the learner has not reached wrote some of the trajectory."""
    return versions is not None and versions.newest > learner_version


def admissible(versions: VersionRange | None, learner_version: int, max_staleness: int) -> bool:
    """Whether the learner at `learner_version` may train on a trajectory.

    No version from the future wrote it, and its staleness is at most `max_staleness`.
    """
    return not from_future(versions, learner_version) and staleness(versions, learner_version) <= max_staleness
