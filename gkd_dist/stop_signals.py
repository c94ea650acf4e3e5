"""SIGTERM and Ctrl-C as a wish to stop in order (floor F0).

    with StopSignals(print) as stop:
        stop.install()             # once more after `ray.init`, which takes SIGTERM for itself
        engines = await unless_stopped(stop.event, start())
        stop.begin()
        await stop.event.wait()
        raise stop.error("runs/quickstart-3")

The first of either is a wish: the event is set. Before `begin`, the caller closes what it has started and exits with
128 + the signal's number (130, 143); after, it finishes its step, saves a checkpoint and exits with 75. SIGTERM stays
a wish however often it comes: a scheduler, `gkd stop` and the end of a pod may all ask for the same checkpoint. Ctrl-C
after either ends the process at once with 130; the kernel then ends what Ray started, but for Ray's two agents, which
need up to a minute to notice.
"""

import _thread
import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from gkd_dist.errors import StoppedEarlyError, StoppedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LAST_ACT_S = 2.0


class StopSignals:
    """Made inside of the running loop, in the main thread.

    Args:
        say: told in one line, in the loop, what was understood.
        last_act: done with the exit code before the second signal ends the process; see `leave`.
    """

    def __init__(self, say: Callable[[str], object], last_act: Callable[[int], object] = lambda _: None) -> None:
        self._say = say
        self._last_act = last_act
        self._loop = asyncio.get_running_loop()
        self.event = asyncio.Event()
        """Set by the first signal."""
        self._has_begun = False
        self._former: dict[int, Any] = {}
        self.received: str | None = None
        """Name of the first signal, such as `SIGTERM`; None where there was none."""

    @property
    def is_requested(self) -> bool:
        return self.received is not None

    def install(self) -> None:
        """Take both signals, also from whoever has taken them meanwhile. What was asked before stays asked."""
        for number in _SIGNALS:
            former = signal.signal(number, self._receive)
            self._former.setdefault(number, former)

    def restore(self) -> None:
        """Give the signals back to who had them first. May be called twice."""
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()

    def begin(self) -> None:
        """From now on there is something to save."""
        self._has_begun = True

    def error(self, run: str) -> StoppedError:
        """What to raise once the checkpoint of `run` is written, or all that was started is closed."""
        if not self._has_begun and self.received is not None:
            return StoppedEarlyError(signal.Signals[self.received])
        return StoppedError(f"{self.received}: stopped with a good checkpoint; the same command goes on with {run}")

    def __enter__(self) -> "StopSignals":
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's signature
        if self.received is not None:
            if number == signal.SIGINT:
                _say_the_end()
                leave(128 + number, self._last_act)
            return
        self.received = signal.Signals(number).name
        # Not `Event.set` itself: the loop may sleep in a system call, and this wakes it.
        self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self.event.set()
        then = "finishing this step, then a checkpoint" if self._has_begun else "closing what was started"
        once_more = " once more" if self.received == "SIGINT" else ""
        self._say(f"{self.received}: {then}; Ctrl-C (SIGINT){once_more} stops at once")


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """For work that cannot wait for a wish: either signal breaks it off where it is, or where it ends if it goes on.

    Raises:
        StoppedEarlyError: one came.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's signature
        received.append(number)
        raise StoppedEarlyError(number)

    former = {number: signal.signal(number, receive) for number in _SIGNALS}
    try:
        yield
        if received:  # somebody took it for a failure of his own
            raise StoppedEarlyError(received[0])
    except Exception as error:
        if received and not isinstance(error, StoppedEarlyError):
            raise StoppedEarlyError(received[0]) from error
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def noticing_signals() -> Iterator[Callable[[], bool]]:
    """For a last wait, when all is done: either signal is no more than a reason to wait no longer. Gives a function
    that says whether one came."""
    received: list[int] = []
    former = {number: signal.signal(number, lambda number, _: received.append(number)) for number in _SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def leave(code: int, last_act: Callable[[int], object]) -> None:
    """End the process, without clean-up: it may be what hangs.

    Args:
        last_act: told the exit code first, on a thread of its own: where a disk hangs, nobody waits for it for long.
    """
    done = _thread.allocate_lock()  # `threading` has locks of its own, which a signal may have broken into
    done.acquire()

    def act() -> None:
        try:
            last_act(code)
        finally:
            done.release()

    try:
        _thread.start_new_thread(act, ())
        done.acquire(timeout=_LAST_ACT_S)
    finally:
        os._exit(code)


def _say_the_end() -> None:
    """Only a terminal gets its cursor back, which a live line hides."""
    if os.isatty(1):
        os.write(1, b"\x1b[?25h")
    os.write(2, b"\nstopped at once, without a checkpoint of the last steps\n")
