"""The train step that the learner is at, as one piece with its entry in the ledger.

A learner that trains cannot be called back: when the ring fails meanwhile, it ends one step further than the ring, and
no checkpoint could be made of either. So the step goes on when the loop that asked for it is cancelled.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class StepUnderWay:
    """At most one at a time."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None

    async def see_through(self, step: Coroutine[Any, Any, T]) -> T:
        """The result of `step`, which goes on also where this call is cancelled."""
        self._task = asyncio.create_task(step)
        return await asyncio.shield(self._task)

    async def end(self, timeout_s: float = 0.0) -> None:
        """Nothing is under way when this returns: what takes longer than `timeout_s` is given up."""
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=timeout_s)
            for task in late:
                task.cancel()
                await asyncio.wait([task])
