"""Work that shares one resource: tokens of a running batch, bytes of a link."""

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable

_LEFT = 1e-9
"""Share of its amount that may be missing when a flow counts as done: what rounding takes."""


class Shared:
    """Flows that advance at one speed, which depends on how many there are; those that find no place wait in line.

    All of them advance alike, so the end of each is known as a reading of one counter, and a change costs O(log n).

    Args:
        speed: units per second of each flow, where so many flow.
        max_flows: at once.
    """

    def __init__(self, speed: Callable[[int], float], max_flows: float = math.inf) -> None:
        self._speed = speed
        self._max_flows = max_flows
        self._reading = 0.0
        """Units that a flow would have advanced that was here from the beginning."""
        self._read_at = 0.0
        self._ends: list[tuple[float, int, asyncio.Future[None]]] = []
        self._num_flows = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._num_holds = 0
        self.busy_s = 0.0
        """Seconds in which something flowed."""
        self.full_s = 0.0
        """Seconds of flow, over all places: `busy_s` where there is one."""

    async def join(self) -> None:
        """Wait for a place; the caller then calls `flow`, or `leave`."""
        if self._num_flows < self._max_flows and not self._line:
            self._settle()
            self._num_flows += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    async def flow(self, amount: float) -> None:
        """Return when `amount` has gone through, in a place that `join` gave; the place is free then."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._settle()
        heapq.heappush(self._ends, (self._reading + amount, next(self._order), done))
        self._set_timer()
        try:
            await done
        finally:
            if done.cancelled():  # its entry goes when its turn comes
                self.leave()

    def leave(self) -> None:
        """Give up a place."""
        self._settle()
        self._num_flows -= 1
        self._admit()
        self._set_timer()

    def hold(self) -> None:
        """Nothing advances until as many calls of `go_on`."""
        self._settle()
        self._num_holds += 1
        self._set_timer()

    def go_on(self) -> None:
        self._settle()
        self._num_holds -= 1
        self._set_timer()

    def _settle(self) -> None:
        """Bring the reading up to now."""
        now = asyncio.get_running_loop().time()
        if self._num_flows:
            elapsed = now - self._read_at
            self.busy_s += elapsed
            self.full_s += elapsed * self._num_flows
            if not self._num_holds:
                self._reading += elapsed * self._speed(self._num_flows)
        self._read_at = now

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._ends and self._ends[0][2].cancelled():
            heapq.heappop(self._ends)
        if not self._ends or self._num_holds:
            return
        left = max(0.0, self._ends[0][0] - self._reading)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(left / self._speed(self._num_flows), self._finish)

    def _finish(self) -> None:
        """Let go of all that are done by now."""
        self._settle()
        reached = self._reading * (1 + _LEFT) + _LEFT
        while self._ends and (self._ends[0][0] <= reached or self._ends[0][2].cancelled()):
            _, _, done = heapq.heappop(self._ends)
            if not done.cancelled():
                done.set_result(None)
                self._num_flows -= 1
        self._admit()
        self._set_timer()

    def _admit(self) -> None:
        while self._line and self._num_flows < self._max_flows:
            place = self._line.popleft()
            if not place.cancelled():
                self._num_flows += 1
                place.set_result(None)
