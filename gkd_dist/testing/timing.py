"""A clock that moves when a test says so, for code that takes its clock and its sleep as parameters."""

import asyncio
import heapq
import itertools

TURNS = 40
"""Of the event loop, until everything that can go on has gone on: more than the longest chain of awaits in use."""


class FakeTime:
    """Seconds that pass by `advance` alone.

    time = FakeTime()
    pool = Pool(..., clock=time.clock, sleep=time.sleep)
    await time.advance(5.0)
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), sleeper))
        await sleeper

    async def advance(self, seconds: float) -> None:
        """Let so many seconds pass; whoever sleeps wakes in its order and gets on as far as it can."""
        end = self.now + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            when, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                self.now = max(self.now, when)
                sleeper.set_result(None)
                await self.settle()
        self.now = end
        await self.settle()

    async def settle(self) -> None:
        """Everything that needs no time happens."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
