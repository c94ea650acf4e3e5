"""An asyncio event loop whose time is a number: it jumps to the next timer when nothing else can go on.

result = run_virtual(main())

Everything that takes its time from the loop (`asyncio.sleep`, timeouts, `loop.time()`) runs unchanged, in the order in
which it would have run, as fast as the processor allows. Computing takes no time; whoever wants it to cost some sleeps.
Nothing is random here: the same program runs in the same order each time, apart from what threads do.
"""

import asyncio
import math
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from gkd_dist.errors import GkdError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TICK_S = 2.0**-20
"""Timers go off at whole ticks, about a microsecond each: so the clock is exactly where a timer says, never a rounding
error before it, and whoever looks at the clock when woken finds that it is time."""
_NAMED = 5
"""Kinds of waiting tasks that an error names."""


class DeadlockError(GkdError):
    """Nothing can go on and no timer is set: what the program waits for will never come."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at second 0. What runs in threads takes no time of this clock: the loop waits for it, and the clock
    stands.

    Raises:
        DeadlockError: out of `run_until_complete`; it names what waits.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.num_jumps = 0
        self._num_threads_at_work = 0
        super().__init__(_Jumping(self._wait))

    def time(self) -> float:
        return self.now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return super().call_at(math.ceil(when / TICK_S) * TICK_S, callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]  # of an annotation without types
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        self._num_threads_at_work += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_ended)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        self._num_threads_at_work += 1  # it waits for the threads in one of its own
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._num_threads_at_work -= 1

    def _thread_ended(self, _: "asyncio.Future[Any]") -> None:
        self._num_threads_at_work -= 1

    def _wait(self, real: selectors.BaseSelector, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """What the loop asks when it has looked at everything that is ready."""
        found = real.select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        if self._num_threads_at_work:
            return real.select(None)
        if timeout is None:
            raise DeadlockError(f"nothing can go on at second {self.now:g}, and no timer is set; {self._waiting()}")
        self.now += timeout
        self.num_jumps += 1
        return []

    def _waiting(self) -> str:
        tasks = asyncio.all_tasks(self)
        kinds = Counter(getattr(task.get_coro(), "__qualname__", "a task") for task in tasks)
        named = ", ".join(f"{number} x {kind}" for kind, number in kinds.most_common(_NAMED))
        return f"{len(tasks)} tasks wait: {named or 'none'}"


class _Jumping(selectors.BaseSelector):
    """A selector that asks its loop instead of waiting."""

    def __init__(
        self, wait: Callable[[selectors.BaseSelector, float | None], list[tuple[selectors.SelectorKey, int]]]
    ) -> None:
        self._real = selectors.DefaultSelector()
        self._ask = wait

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return self._ask(self._real, timeout)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in virtual time.

    Raises:
        DeadlockError: `main` waits for what will never come.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
