"""The phases of a run, and how long each may go without anything coming to an end."""

import time
from collections.abc import Callable
from enum import StrEnum

from gkd_dist.fleet import Fleet


class Phase(StrEnum):
    """What a run does, in words."""

    LOOKING = "looking for a checkpoint"
    STARTING = "starting the engines"
    CHECKING = "checking the teachers"
    BEFORE = "evaluating before training"
    RECOVERING = "going back to the last checkpoint"
    TRAINING = "training"
    SAVING = "saving the student"
    AFTER = "evaluating after training"
    ASKING = "asking the teachers for their own answers"
    CLOSING = "closing what was started"


class Pulse:
    """How long nothing has come to an end: no part of the ring, and no request of a replica.

    Args:
        idle_s: seconds since the ring's accounts last saw something end.
    """

    def __init__(self, fleet: Fleet, idle_s: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._idle_s = idle_s
        self._clock = clock
        self._num_done = self._count()
        self._moved_at = clock()

    def idle_s(self) -> float:
        """Seconds, as far as its calls tell: call it again and again."""
        now, num_done = self._clock(), self._count()
        if num_done != self._num_done:
            self._num_done, self._moved_at = num_done, now
        return min(self._idle_s(), now - self._moved_at)

    def _count(self) -> int:
        return sum(pool.num_done for pool in self._fleet.pools.values())
