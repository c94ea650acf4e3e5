"""A thread of its own for blocking work, driven from asyncio (floor F0)."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class SerialThread:
    """Runs calls one at a time, in the order they were made; the event loop stays free.

    Cancelling a call does not stop work that has begun; its result is thrown away.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, or its exception."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Refuse further calls; does not wait for the one in progress."""
        self._pool.shutdown(wait=False, cancel_futures=True)
