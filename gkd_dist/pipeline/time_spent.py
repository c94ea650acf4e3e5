"""Where the time of a step went, beyond which parts were at work in it: what replicas say of their answers, how long
each had something in hand, and what the controller itself computed."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gkd_dist.interfaces import Replicas, Timed

Clock = Callable[[], float]
Roles = Mapping[str, Sequence[Replicas[Any]]]


class TimeSpent:
    """Collects since the last record, and puts it into the next.

    Calls overlap, of one replica and of several: what is known of them is their sum. So a record has shares of them,
    times the wall time in which any of them was under way.

    Args:
        clock: monotonic seconds.
        cpu_clock: seconds that the calling thread has computed.
    """

    def __init__(self, clock: Clock = time.perf_counter, cpu_clock: Clock = time.thread_time) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._cpu_before = cpu_clock()
        self._asked: dict[str, float] = defaultdict(float)
        self._told: dict[str, float] = defaultdict(float)
        self._roles: Roles = {}
        self._busy_before: dict[str, float] = {}

    def begin(self, roles: Roles) -> None:
        """What was spent before belongs to no step.

        Args:
            roles: whose replicas are watched from now on.
        """
        self._roles = roles
        self._busy_before = {role: _busy_s(pools) for role, pools in roles.items()}
        self._cpu_before = self._cpu_clock()
        self._asked.clear()
        self._told.clear()

    @contextmanager
    def asked(self, call: str, replica: object) -> Iterator[None]:
        """The block waits for an answer of `replica`.

        Args:
            call: its name in `Timed.time_spent`, and the part that is timed around it.
        """
        began = self._clock()
        try:
            yield
        finally:
            self._asked[call] += self._clock() - began
            if isinstance(replica, Timed):
                for name, seconds in replica.time_spent().items():
                    self._told[name] += seconds

    def fields(self, parts: Mapping[str, float]) -> dict[str, float]:
        """What the record of a step says of it; collects anew.

        Args:
            parts: `{part}_s` of the step.
        """
        found: dict[str, float] = {}
        for call, asked_s in self._asked.items():
            wall_s = parts.get(f"{call}_s", 0.0)
            for name, told_s in self._told.items():
                share = min(1.0, told_s / asked_s) if asked_s else 0.0
                if name == call:
                    found[f"{call}_transport_s"] = wall_s * (1.0 - share)
                elif name.startswith(f"{call}_"):
                    found[f"{name}_s"] = wall_s * share
        self._asked.clear()
        self._told.clear()
        for role, pools in self._roles.items():
            before, self._busy_before[role] = self._busy_before[role], _busy_s(pools)
            num_replicas = sum(pool.target for pool in pools)
            if num_replicas:
                found[f"{role}_busy_s"] = max(0.0, self._busy_before[role] - before) / num_replicas
        before_s, self._cpu_before = self._cpu_before, self._cpu_clock()
        found["controller_s"] = self._cpu_before - before_s
        return found


def _busy_s(pools: Sequence[Replicas[Any]]) -> float:
    return sum(pool.busy_s for pool in pools)
