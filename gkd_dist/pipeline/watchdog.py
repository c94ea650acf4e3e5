"""The stall watchdog: above all deadlines, it ends a phase of a run in which nothing comes to an end any more.

It watches from a thread of its own, so that it also sees an event loop that stands still, and writes on another one, so
that it does not wait for a disk that hangs. A run that fails otherwise leaves the same behind as one that stalls: a
diagnosis, and a checkpoint where one can still be had.
"""

import asyncio
import faulthandler
import json
import logging
import os
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from gkd_dist.disk import write_whole
from gkd_dist.errors import StalledError, plain
from gkd_dist.fault_points import fault_point
from gkd_dist.pipeline.stacks import stacks

logger = logging.getLogger(__name__)

LastWords = Callable[[float], Awaitable[Mapping[str, Any]]]
"""Told how many seconds they have."""

_LAST_WORDS_S = 30.0
"""What a run that was told to stop may take; half of it is for its last words, a checkpoint say."""
_WORDS_OF_FAILURE_S = 60.0
"""What the last words of a run that failed may take: in it, work still comes to an end."""
_WRITE_S = 5.0
"""What a diagnosis may take; a disk that hangs must not keep the run from its end."""


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
        last_words: LastWords | None = None,
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
        self._cancelled = False
        self._ending = False
        """The block has come to its end, be it by itself or because it was told to."""
        self._writing = threading.Lock()
        self._written: dict[str, Any] | None = None

    async def __aenter__(self) -> "Watchdog":
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True  # both this and `_cancel` run in the loop: from here on nobody is cancelled
        try:
            if self._cancelled and self._task is not None:
                self._task.uncancel()
            if self._cancelled and isinstance(error, asyncio.CancelledError):
                await self._say_last_words(_LAST_WORDS_S / 2)
                raise StalledError(
                    f"{self._phase}: nothing has come to an end for {self._timeout_s:g} s "
                    f"(supervision.stall_timeout_s); {self._where}"
                ) from None
            if isinstance(error, Exception) and not isinstance(error, self._spare):
                _briefly(self._try_to_write, error)
                await self._say_last_words(_WORDS_OF_FAILURE_S)
        finally:
            self._done.set()

    @property
    def _where(self) -> str:
        if self._written is None:
            return f"no diagnosis could be written to {self._file}"
        return f"what every part was doing is in {self._file}"

    async def _say_last_words(self, timeout_s: float) -> None:
        if self._last_words is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                news = await self._last_words(timeout_s)
        except Exception as error:
            logger.error("no checkpoint at the end: %s", plain(error))
            return
        if self._written is not None:
            _briefly(self._bring_up_to_date, {**self._written, **news})

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._timeout_s / 10)):
            if self._idle_s() < self._timeout_s:
                continue
            if not self._ending:  # else its last words do not end
                _briefly(self._try_to_write)
                self._loop.call_soon_threadsafe(self._cancel)
            if not self._comes_to_its_end():
                _briefly(_say_the_end)
                self._exit(StalledError.exit_code)
            return

    def _comes_to_its_end(self) -> bool:
        """Within the time that its last words have."""
        if self._done.wait(_LAST_WORDS_S):
            return True
        failed = self._ending and not self._cancelled
        return failed and self._done.wait(_WORDS_OF_FAILURE_S)

    def _cancel(self) -> None:
        if self._task is not None and not self._ending:  # else the block ended while the diagnosis was written
            self._cancelled = True
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
        with self._writing:
            if failure is None and self._ending and not self._cancelled:  # how it ended by itself says more
                return
            self._put(diagnosis)
            self._written = diagnosis
        how = "stalled" if failure is None else "failed"
        logger.critical("%s while %s; diagnosis in %s", how, self._phase, self._file)

    def _bring_up_to_date(self, diagnosis: Mapping[str, Any]) -> None:
        try:
            self._put(diagnosis)
        except OSError as error:
            logger.error("%s could not be brought up to date: %s", self._file, plain(error))

    def _put(self, diagnosis: Mapping[str, Any]) -> None:
        write_whole(self._file, f"{json.dumps(diagnosis, indent=2, default=str)}\n".encode())


def _say_the_end() -> None:
    logger.critical("the event loop does not react; ending the process")
    faulthandler.dump_traceback(all_threads=True)


def _briefly(work: Callable[..., None], *args: object) -> None:
    """On a thread of its own, for which nobody waits for long."""
    thread = threading.Thread(target=work, args=args, name="diagnosis", daemon=True)
    thread.start()
    thread.join(_WRITE_S)
