"""The stall watchdog: above all deadlines, it ends a phase of a run in which nothing comes to an end any more.

It watches from a thread of its own, so that it also sees an event loop that stands still. A run that fails otherwise
leaves the same behind as one that stalls: a diagnosis, and a checkpoint where one can still be had.
"""

import asyncio
import faulthandler
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from gkd_dist.errors import StalledError, plain
from gkd_dist.fault_points import fault_point

logger = logging.getLogger(__name__)

_LAST_WORDS_S = 30.0
"""What a run that was told to stop may take, a last checkpoint included."""


class Watchdog:
    """Cancels the task that entered the block when nothing has moved for too long.

    async with Watchdog("training", pulse.idle_s, 900, file, diagnose):
        await run_ring(ring)          # raises StalledError

    Args:
        phase: what the block does, in words.
        idle_s: seconds since anything last came to an end.
        timeout_s: so many are too many.
        file: receives the diagnosis as JSON.
        diagnose: what else to say in it; called on the watchdog's thread while the loop may run.
        last_words: awaited when the block fails, within a deadline: a checkpoint, say. What it returns is put into the
            diagnosis, which was written before.
        spare: errors after which the run goes on, or ends as it should.
        exit: ends the process when even its event loop does not react.
    """

    def __init__(
        self,
        phase: str,
        idle_s: Callable[[], float],
        timeout_s: float,
        file: Path,
        diagnose: Callable[[], dict[str, Any]],
        *,
        last_words: Callable[[], Awaitable[Mapping[str, Any]]] | None = None,
        spare: tuple[type[Exception], ...] = (),
        exit: Callable[[int], object] = os._exit,
    ) -> None:
        self._phase = phase
        self._idle_s = idle_s
        self._timeout_s = timeout_s
        self._file = file
        self._diagnose = diagnose
        self._last_words = last_words
        self._spare = spare
        self._exit = exit
        self._done = threading.Event()
        self._stalled = False
        self._written: dict[str, Any] | None = None

    async def __aenter__(self) -> "Watchdog":
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._stalled and isinstance(error, asyncio.CancelledError):
                if self._task is not None:
                    self._task.uncancel()
                await self._say_last_words()
                raise StalledError(
                    f"{self._phase}: nothing has come to an end for {self._timeout_s:g} s "
                    f"(supervision.stall_timeout_s); what every part was doing is in {self._file}"
                ) from None
            if isinstance(error, Exception) and not isinstance(error, self._spare):
                self._try_to_write(error)
                await self._say_last_words()
        finally:
            self._done.set()

    async def _say_last_words(self) -> None:
        if self._last_words is None:
            return
        try:
            async with asyncio.timeout(_LAST_WORDS_S / 2):
                news = await self._last_words()
        except Exception as error:
            logger.error("no checkpoint at the end: %s", plain(error))
            return
        if self._written is not None:
            try:
                self._put({**self._written, **news})
            except OSError as error:
                logger.error("%s could not be brought up to date: %s", self._file, plain(error))

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._timeout_s / 10)):
            if self._idle_s() < self._timeout_s:
                continue
            self._stalled = True
            self._try_to_write()
            self._loop.call_soon_threadsafe(self._cancel)
            if not self._done.wait(_LAST_WORDS_S):
                logger.critical("the event loop does not react; ending the process")
                faulthandler.dump_traceback(all_threads=True)
                self._exit(StalledError.exit_code)
            return

    def _cancel(self) -> None:
        if self._task is not None and not self._done.is_set():  # else the block ended while the diagnosis was written
            self._task.cancel()

    def _try_to_write(self, failure: Exception | None = None) -> None:
        """A full disk, say, may be what stalls the run: that must not keep it from ending, nor hide its own error."""
        try:
            self._write(failure)
        except Exception as error:
            logger.error("no diagnosis could be written to %s: %s", self._file, plain(error))

    def _write(self, failure: Exception | None = None) -> None:
        """
        Args:
            failure: None for a stall.
        """
        fault_point("watchdog.write")
        diagnosis: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "phase": str(self._phase),
            "idle_s": self._idle_s(),
            "timeout_s": self._timeout_s,
        }
        if failure is not None:
            diagnosis["error"] = traceback.format_exception(failure)
        try:
            diagnosis |= self._diagnose()
        except Exception as error:  # a part that is broken must not hide the rest
            diagnosis["diagnosis_failed"] = plain(error)
        diagnosis["stacks"] = stacks(self._loop)
        self._put(diagnosis)
        self._written = diagnosis
        how = "stalled" if failure is None else "failed"
        logger.critical("%s while %s; diagnosis in %s", how, self._phase, self._file)

    def _put(self, diagnosis: Mapping[str, Any]) -> None:
        self._file.write_text(json.dumps(diagnosis, indent=2, default=str) + "\n")


def stacks(loop: asyncio.AbstractEventLoop) -> dict[str, list[str]]:
    """The Python stack of every thread of this process and of every task of `loop`, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = {
        f"thread {names.get(ident, ident)}": traceback.format_stack(frame)
        for ident, frame in sys._current_frames().items()
    }
    for task in asyncio.all_tasks(loop):
        found[f"task {task.get_name()}"] = _awaits(task)
    return found


def _awaits(task: "asyncio.Task[Any]") -> list[str]:
    """Where a task waits. `Task.get_stack` knows the outermost coroutine alone; this follows what each one awaits."""
    lines = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(awaited, f"{kind}_frame")), None)
        if kind is None:  # a future, or an iterator of C
            break
        frame = getattr(awaited, f"{kind}_frame")
        if frame is not None:
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        awaited = getattr(awaited, {"cr": "cr_await", "gi": "gi_yieldfrom", "ag": "ag_await"}[kind])
    return lines
