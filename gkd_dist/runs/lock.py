"""One process at a time works on a run directory (floor F2).

The kernel's lock on the file ends with the process that holds it, whatever ends that; the content says who it is. A
content without a kernel's lock is a dead process of this host, or one of another host: that is dead once it has given
no sign of life for a while (`lease`).

A content that says nothing (a power cut may leave NUL bytes) is read as a holder who is not known: while the kernel's
lock is held or the lease runs, somebody works there; after that nobody does. One who lives writes it anew.
"""

import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from gkd_dist.errors import RunError
from gkd_dist.runs.documents import DamagedError, Document, read_document
from gkd_dist.runs.lease import Heartbeat, await_silence, end_process, is_silent
from gkd_dist.runs.moment import moment

_TRIES = 20
_PAUSE_S = 0.05
"""`holder_of` takes the kernel's lock for a moment; a start outlasts that."""


class Holder(Document):
    """Who works on a run directory."""

    run_epoch: str
    """Of its attempt; those of later attempts compare greater."""
    host: str
    pid: int
    started_at: str
    """UTC, ISO 8601."""

    @property
    def is_known(self) -> bool:
        return bool(self.run_epoch)

    @property
    def is_local(self) -> bool:
        return self.host == socket.gethostname()

    def __str__(self) -> str:
        if not self.is_known:
            return "a process that its damaged `lock` does not name; the last line of attempts.jsonl may"
        return f"process {self.pid} on {self.host}, started {moment(self.started_at)}"


_UNKNOWN = Holder(run_epoch="", host="", pid=0, started_at="")
"""Of a file that says nothing."""
_ENDED = "a process that has ended since (its `lock` is empty or gone)"


class RunLock:
    """Holds the lock file `path` until it is closed.

    Raises:
        RunError: another process has it, here or on another host.
    """

    def __init__(self, path: Path, *, when_taken: Callable[[Path, object], object] = end_process) -> None:
        self._path = path
        self._when_taken = when_taken
        self._heartbeat: Heartbeat | None = None
        self._holder: Holder | None = None
        self._was_damaged = False
        self._file: IO[str] = path.open("a+", encoding="utf-8")
        try:
            if not _lock(self._file, fcntl.LOCK_EX):
                raise RunError(_in_use(path, _told(path)))
            self.former = _told(path)
            """Who held it last and did not close it: a process that died; None where nobody did, or the file does not
            say who."""
            if self.former is not None and not self.former.is_local:
                former = _await_end(path, self.former)
                self.former = former if former is not None and former.is_known else None
        except BaseException:
            self._file.close()
            raise

    def write(self, holder: Holder) -> None:
        """Say who holds it, and from now on that it lives."""
        self._holder = holder
        self._put(holder.model_dump_json() + "\n")
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(
                self._path, lambda: self._other_than(holder), lambda other: self._when_taken(self._path, other)
            )

    def close(self) -> None:
        """Nobody holds it any more. May be called twice."""
        if not self._file.closed:
            if self._heartbeat is not None:
                self._heartbeat.stop()
            try:
                if self._is_ours():
                    self._put("")
            finally:
                self._file.close()

    def _is_ours(self) -> bool:
        """Not so where another process took it: it would miss its own name, and end."""
        try:
            told = _told(self._path)
        except RunError:
            return False
        return self._holder is None or told in (self._holder, _UNKNOWN)

    def _other_than(self, holder: Holder) -> Holder | str | None:
        """Who took it. One who ended in order leaves an empty file, in which nobody else would write while we hold it;
        what comes after that end must not be written into, either."""
        try:
            now = read_document(self._path, Holder)
        except DamagedError:
            if self._was_damaged:  # for a whole beat: nobody is just writing it
                self._put(holder.model_dump_json() + "\n")
            self._was_damaged = not self._was_damaged
            return None
        self._was_damaged = False
        if now is None:
            return _ENDED
        return None if now == holder else now

    def _put(self, text: str) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())


def holder_of(path: Path) -> Holder | None:
    """Who works on the directory of the lock file `path` now; None: nobody.

    A process of another host, or one that is not known, counts as alive while it holds the kernel's lock, or its lease
    is not over.

    Raises:
        RunError: the file cannot be read.
    """
    try:
        file = path.open("r", encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        is_free = _lock(file, fcntl.LOCK_SH, tries=1)
        holder = _told(path)
    return None if holder is None or (is_free and (holder.is_local or is_silent(path))) else holder


def is_damaged(path: Path) -> bool:
    """Whether the lock file says something else than who holds it."""
    try:
        return _told(path) is _UNKNOWN
    except RunError:
        return True


def check_free(path: Path) -> None:
    """Raise RunError where a process works on the directory; takes nothing.

    Of a process of another host that may be dead, the rest of its lease is waited for.
    """
    holder = holder_of(path)
    if holder is None:
        return
    with path.open("r", encoding="utf-8") as file:
        is_free = _lock(file, fcntl.LOCK_SH)
    if not is_free or holder.is_local:
        raise RunError(_in_use(path, holder))
    _await_end(path, holder)


def _await_end(path: Path, holder: Holder) -> Holder | None:
    """What `holder`, of another host, leaves behind: itself where it died, None where it ended meanwhile.

    Raises:
        RunError: it lives.
    """
    if await_silence(path):
        return holder
    now = _told(path)
    if now is not None:
        raise RunError(_in_use(path, now))
    return None


def _told(path: Path) -> Holder | None:
    """What the file says; None where it is empty, or not there."""
    try:
        return read_document(path, Holder)
    except DamagedError:
        return _UNKNOWN


def _lock(file: IO[str], kind: int, tries: int = _TRIES) -> bool:
    for left in reversed(range(tries)):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if left:
                time.sleep(_PAUSE_S)
    return False


def _in_use(path: Path, holder: Holder | None) -> str:
    who = "another process" if holder is None else str(holder)
    is_elsewhere = holder is not None and holder.is_known and not holder.is_local
    there = f", which gives signs of life from {holder.host}" if holder is not None and is_elsewhere else ""
    return (
        f"{path.parent}: in use by {who}{there}; stop it, or wait until it ends, or start another run with "
        "checkpoint.resume=false"
    )
