"""What comes to the replay and leaves it, and what becomes of it (floor F2)."""

from dataclasses import dataclass
from enum import StrEnum

from gkd_dist.types import ScoredTrajectory, Source

Group = tuple[ScoredTrajectory, ...]
"""All samples of one prompt, in order of the repeat index; or one fixed pair."""


class Kind(StrEnum):
    """Which of the two stores of the mixture a trajectory belongs to."""

    STUDENT = "student"
    FIXED = "fixed"

    @classmethod
    def of(cls, scored: ScoredTrajectory) -> "Kind":
        return cls.STUDENT if scored.trajectory.source is Source.STUDENT else cls.FIXED


class Admission(StrEnum):
    """What became of an offered group; everything but ADMITTED means it was thrown away."""

    ADMITTED = "admitted"
    DUPLICATE = "duplicate"
    """Its id waits here already, has been drawn, or was evicted in this or a later attempt. Do not re-issue it."""
    TOO_STALE = "too_stale"
    """Issue its prompt again, as a higher attempt."""
    FROM_FUTURE = "from_future"
    """A version that the learner has not reached wrote it: a former attempt of the run is still sampling."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One trajectory of a draw."""

    scored: ScoredTrajectory
    use: int
    """1 the first time it is drawn."""
