"""What happens in a pool, for those who wait for it."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]


class Changes:
    """Wakes those who wait at the next change, or when it is time.

    Args:
        clock: seconds; only differences count.
        sleep: waits for so many seconds of `clock`.
    """

    def __init__(self, clock: Clock, sleep: Sleep) -> None:
        self.clock = clock
        self._sleep = sleep
        self.next = asyncio.Event()
        """Set once at the next change of any slot, and then replaced: take it before looking, then wait."""

    def tell(self) -> None:
        """Something changed."""
        changed, self.next = self.next, asyncio.Event()
        changed.set()

    async def wait(self, changed: asyncio.Event, until: float, *others: asyncio.Future[Any]) -> None:
        """Return at the change, when the clock says `until`, or when one of `others` is done."""
        change = asyncio.ensure_future(changed.wait())
        try:
            await self.wait_for(until, change, *others)
        finally:
            change.cancel()

    async def wait_for(self, until: float, *others: asyncio.Future[Any]) -> None:
        """Return when the clock says `until`, or when one of `others` is done."""
        timers = [] if until == math.inf else [self.timer(until)]
        try:
            await asyncio.wait([*timers, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for timer in timers:
                timer.cancel()

    def timer(self, until: float) -> asyncio.Future[Any]:
        """Done when the clock says `until`."""
        return asyncio.ensure_future(self._sleep(max(0.0, until - self.clock())))
