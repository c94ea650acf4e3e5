"""What a pool does beside its callers, and ends with them."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Background:
    """Tasks that nobody waits for.

    Args:
        role: in messages.
    """

    def __init__(self, role: str) -> None:
        self._role = role
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ends: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work that is cancelled when the pool closes."""
        task = asyncio.create_task(work)
        self.keep(task)
        return task

    def keep(self, task: asyncio.Task[Any]) -> None:
        """As `spawn`, for a task that is there; what it raises is logged."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def finish(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that is waited for when the pool closes, such as a kill."""
        task = asyncio.create_task(work)
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.debug("%s, in the background: %r", self._role, task.exception())

    async def end(self) -> None:
        """Cancel all, but for what is to be finished, and wait for both."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._ends, return_exceptions=True)
