"""Requests that wait while an engine works are answered together (floor F3).

The ring asks row by row, and an engine that works on one request at a time would run batches of one.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gkd_dist.serial import SerialThread

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")
T = TypeVar("T")

LINGER_S = 0.005
"""How long work waits for the next request of a burst: far below the time of any forward that is worth a batch."""


@dataclass(eq=False)
class _Request(Generic[Item, Result]):
    key: Hashable
    items: tuple[Item, ...]
    results: list[Result] | None = None
    error: Exception | None = None
    abandoned: bool = False

    @property
    def is_answered(self) -> bool:
        return self.results is not None or self.error is not None


class Coalescer(Generic[Key, Item, Result]):
    """Answers requests on one thread, in the order they were made; neighbours with one key share a call of `work`.

    A request that makes `work` fail is asked again alone, so that its error reaches its own caller only. A cancelled
    request is left out, unless work on it has begun.

    Args:
        name: of the thread.
        work: takes a key and items, returns one result for each, in order. What it returns for an item must not depend
            on the others.
        max_items: of one call; a request with more is a call of its own.
        linger_s: see `LINGER_S`.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Key, list[Item]], list[Result]],
        *,
        max_items: int,
        linger_s: float = LINGER_S,
    ) -> None:
        self._work = work
        self._max_items = max_items
        self._linger_s = linger_s
        self._thread = SerialThread(name)
        self._waiting: deque[_Request[Item, Result]] = deque()
        self._arrived = threading.Condition()

    async def ask(self, key: Key, items: Sequence[Item]) -> list[Result]:
        """Results of `items`, or what `work` raised for them."""
        if not items:
            return []
        request: _Request[Item, Result] = _Request(key, tuple(items))
        self._enqueue(request)
        try:
            return await self._thread.run(lambda: self._answer(request))
        except asyncio.CancelledError:
            request.abandoned = True
            raise

    async def in_turn(self, work: Callable[[], T]) -> T:
        """The result of `work`, after all requests made before and before all made later."""
        fence: _Request[Item, Result] = _Request(object(), ())  # a key that no other has
        self._enqueue(fence)

        def turn() -> T:
            self._drop_until(fence)
            return work()

        return await self._thread.run(turn)

    def check(self) -> None:
        """Raises:
        EngineError: closed.
        """
        self._thread.check()

    def close(self) -> None:
        self._thread.close()

    def _enqueue(self, request: _Request[Item, Result]) -> None:
        with self._arrived:
            self._waiting.append(request)
            self._arrived.notify()

    def _answer(self, request: _Request[Item, Result]) -> list[Result]:
        if not request.is_answered:
            self._serve(self._gather(request))
        if request.error is not None:
            raise request.error
        return request.results or []

    def _gather(self, first: _Request[Item, Result]) -> list[_Request[Item, Result]]:
        """`first` and the requests behind it that may share its call, taken out of those that wait."""
        with self._arrived:
            while self._is_open(first) and self._arrived.wait(self._linger_s):
                pass
            self._drop_until(first)
            batch, room = [first], self._max_items - len(first.items)
            while self._waiting and self._waiting[0].key == first.key and len(self._waiting[0].items) <= room:
                following = self._waiting.popleft()
                if not following.abandoned:
                    batch.append(following)
                    room -= len(following.items)
            return batch

    def _is_open(self, first: _Request[Item, Result]) -> bool:
        """Whether what arrives next could still join."""
        same = all(each.key == first.key for each in self._waiting if not each.abandoned)
        return same and sum(len(each.items) for each in self._waiting) < self._max_items

    def _drop_until(self, request: _Request[Item, Result]) -> None:
        """Requests before this one were cancelled before their turn."""
        with self._arrived:
            while self._waiting.popleft() is not request:
                pass

    def _serve(self, batch: Sequence[_Request[Item, Result]]) -> None:
        key, items = batch[0].key, [item for request in batch for item in request.items]
        try:
            results = iter(self._work(key, items))  # type: ignore[arg-type]  # all have this key
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for request in batch:
                self._serve([request])
            return
        for request in batch:
            request.results = [next(results) for _ in request.items]
