"""One process at a time works on a run directory (floor F2).

The kernel's lock on the file ends with the process that holds it, whatever ends that; the content says who it is. A
content without a kernel's lock is a dead process of this host, or one of another host, of which nothing is known.
"""

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from gkd_dist.errors import RunError
from gkd_dist.runs.documents import Document, read_document

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
    def is_local(self) -> bool:
        return self.host == socket.gethostname()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, started {self.started_at}"


class RunLock:
    """Holds the lock file `path` until it is closed.

    Raises:
        RunError: another process has it, or one of another host may have it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] = path.open("a+", encoding="utf-8")
        try:
            if not _lock(self._file, fcntl.LOCK_EX):
                raise RunError(_in_use(path, read_document(path, Holder)))
            self.former = read_document(path, Holder)
            """Who held it last and did not close it: a process of this host that died; None where nobody did."""
            if self.former is not None and not self.former.is_local:
                raise RunError(_elsewhere(path, self.former))
        except BaseException:
            self._file.close()
            raise

    def write(self, holder: Holder) -> None:
        """Say who holds it."""
        self._put(holder.model_dump_json() + "\n")

    def close(self) -> None:
        """Nobody holds it any more. May be called twice."""
        if not self._file.closed:
            try:
                self._put("")
            finally:
                self._file.close()

    def _put(self, text: str) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())


def holder_of(path: Path) -> Holder | None:
    """Who works on the directory of the lock file `path` now; None: nobody.

    A process of another host counts as alive: nothing else is known of it.

    Raises:
        RunError: the file is none of ours.
    """
    try:
        file = path.open("r", encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        is_free = _lock(file, fcntl.LOCK_SH, tries=1)
        holder = read_document(path, Holder)
    return None if holder is None or (is_free and holder.is_local) else holder


def check_free(path: Path) -> None:
    """Raise RunError where a process works on the directory, or one of another host may; takes nothing."""
    holder = holder_of(path)
    if holder is not None:
        raise RunError(_in_use(path, holder) if holder.is_local else _elsewhere(path, holder))


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
    return (
        f"{path.parent}: in use by {who}; stop it, or wait until it ends, or start another run with "
        "checkpoint.resume=false"
    )


def _elsewhere(path: Path, holder: Holder) -> str:
    return (
        f"{path.parent}: in use by {holder}, which cannot be seen from here ({socket.gethostname()}); the run last "
        f"wrote {_last_sign(path.parent)}. Look on {holder.host} with `ps -p {holder.pid}`; if that host is gone, or "
        f"the process is no gkd, delete the lock with `rm {path}` and start again"
    )


def _last_sign(run: Path) -> str:
    """How long ago anything of the run was written; a running job shows its status every second."""
    files = [path for path in (run / "control" / "status.json", run / "metrics.jsonl", run / "lock") if path.is_file()]
    newest = max(files, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        return "nothing"
    age_s = max(0.0, time.time() - newest.stat().st_mtime)
    age = f"{age_s:.0f} s" if age_s < 600 else f"{age_s / 3600:.1f} h"
    return f"{newest.relative_to(run)} {age} ago"
