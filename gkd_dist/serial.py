"""A thread of its own for blocking work, driven from asyncio (floor F0)."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from gkd_dist.errors import EngineError

T = TypeVar("T")

_at_work: set[int] = set()
"""Threads that are inside of a call."""


def is_at_work() -> bool:
    """Whether a call is in progress, on any thread. Native code that comes back while the interpreter ends is killed
    in a way that aborts the process: who has such calls and wants to end, has to end at once (`os._exit`)."""
    return bool(_at_work)


class SerialThread:
    """Runs calls one at a time, in the order they were made; the event loop stays free.

    Where no call waits the thread ends, and the next call gets another one. A thread that has computed holds OpenMP
    workers as long as it lives, and where a process has more of these than cores, libgomp puts every worker to sleep
    between two operations: the learner took 1.8 times as long while the thread that had loaded its model waited beside.

    Cancelling a call does not stop work that has begun; its result is thrown away. The thread is a daemon, unlike
    those of concurrent.futures: a call that never ends does not keep the process alive. What must be finished when
    the process ends has to be awaited.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls = _Calls()
        self._closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, or its exception.

        Raises:
            RuntimeError: the thread was closed.
        """
        if self._closed:
            raise RuntimeError(f"the thread {self._name} is closed")
        future: Future[T] = Future()
        if self._calls.put((future, work)):
            threading.Thread(target=_serve, args=(self._calls,), name=self._name, daemon=True).start()
        return await asyncio.wrap_future(future)

    async def ahead(self, following: Callable[[], T | None]) -> AsyncGenerator[T]:
        """What calls of `following` give, up to None: the next one is made while the caller takes one.

        No more than these two are held here.
        """
        making = asyncio.ensure_future(self.run(following))
        try:
            while (made := await making) is not None:
                making = asyncio.ensure_future(self.run(following))
                yield made
                del made
        finally:
            making.cancel()

    def check(self) -> None:
        """Raises:
        EngineError: the thread was closed.
        """
        if self._closed:
            raise EngineError(f"the thread {self._name} is closed")

    def close(self) -> None:
        """Refuse further calls and cancel those that wait; does not wait for the one in progress."""
        self._closed = True
        for future, _ in self._calls.take_all():
            future.cancel()


_Call = tuple[Future[Any], Callable[[], Any]]


class _Calls:
    """Those that wait for the thread, and whether there is one."""

    def __init__(self) -> None:
        self._waiting: deque[_Call] = deque()
        self._lock = threading.Lock()
        self._served = False

    def put(self, call: _Call) -> bool:
        """Whether the caller has to start a thread for it."""
        with self._lock:
            self._waiting.append(call)
            starts, self._served = not self._served, True
            return starts

    def take(self) -> _Call | None:
        """None for the thread that serves: it has to end."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._served = False
            return None

    def take_all(self) -> list[_Call]:
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
            return waiting


def _serve(calls: _Calls) -> None:
    # A function, not a method: a running thread must not keep alive what owns it.
    while (call := calls.take()) is not None:
        _answer(*call)
        del call  # the next one is taken without holding argument or result of the last


def _answer(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    _at_work.add(threading.get_ident())
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        _at_work.discard(threading.get_ident())
