"""Writes down what becomes of the replicas, as it happens."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Replicas
from gkd_dist.runs.events import Tell

_INTERVAL_S = 1.0


class Chronicle:
    """Looks at the pools about once a second; they keep their newest thousand changes of state.

    Args:
        tell: takes the events.
        clock: of the pools.
    """

    def __init__(self, fleet: Fleet, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._pools = fleet.pools
        self._tell = tell
        self._clock = clock
        self._last: dict[str, object] = {}

    async def attend(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """For ever; cancelled, it looks once more."""
        try:
            while True:
                self.look()
                await sleep(_INTERVAL_S)
        finally:
            self.look()

    def look(self) -> None:
        """Tell what is new."""
        for role, pool in self._pools.items():
            for event in self._new(role, pool):
                self._tell(
                    "replica",
                    ago_s=max(0.0, self._clock() - event.when),
                    role=role,
                    slot=event.slot,
                    former=str(event.from_state),
                    state=str(event.to_state),
                    reason=str(event.reason),
                    detail=event.detail,
                )

    def _new(self, role: str, pool: Replicas[Any]) -> list[Any]:
        new: list[Any] = []
        events = pool.events
        for event in reversed(events):
            if event is self._last.get(role):
                break
            new.append(event)
        if events:
            self._last[role] = events[-1]
        return new[::-1]
