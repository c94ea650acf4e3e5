"""Who scrapes an endpoint, and how often; a process that ends waits for them once more (floor F2).

Prometheus sees a process every few seconds. What changes in its last ones, such as that it has ended in order, is lost
unless it stays until everybody has asked again.
"""

import asyncio
import threading
import time
from collections.abc import Callable

_MAX_CLIENTS = 16
_POLL_S = 0.05
_LATE_S = 1.0
"""A scrape that is later than its half interval and this is not waited for any longer."""
HEADER = "X-Prometheus-Scrape-Timeout-Seconds"
"""Sent with each scrape by Prometheus and its relatives, and by nobody who just looks."""


class Scrapes:
    """Those of one endpoint; safe to use from several threads.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        """When the newest scrape of each client began."""
        self._interval_s: dict[str, float] = {}
        """Of clients that came twice: time between their last two."""

    def now(self) -> float:
        """Of the clock that scrapes are told by."""
        return self._clock()

    def note(self, client: str, began: float) -> None:
        """One was answered whole.

        Args:
            client: its address.
            began: when its numbers were read.
        """
        with self._lock:
            former = self._last.pop(client, None)  # the newest at the end
            self._last[client] = began
            if former is not None:
                self._interval_s[client] = began - former
            while len(self._last) > _MAX_CLIENTS:
                oldest = next(iter(self._last))
                del self._last[oldest]
                self._interval_s.pop(oldest, None)

    def due_s(self, since: float) -> float:
        """How long to wait, at most, until all who still come have come after `since`; 0 where there is nobody."""
        now = self._clock()
        with self._lock:
            ends = [
                self._last[client] + 1.5 * interval_s + _LATE_S
                for client, interval_s in self._interval_s.items()
                if self._last[client] < since
            ]
        return max(0.0, max(ends, default=now) - now)

    async def wait(self, limit_s: float, hurry: Callable[[], bool]) -> None:
        """Until all who still come have come once more, but not longer than `limit_s`, nor once `hurry()`."""
        since = self._clock()
        while (now := self._clock()) < since + limit_s and self.due_s(since) > 0 and not hurry():
            await asyncio.sleep(min(_POLL_S, since + limit_s - now))
