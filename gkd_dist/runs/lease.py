"""Signs of life of the holder of a file, for processes of other hosts (floor F2).

Where the kernel's lock does not reach other hosts, or ended with its own, the time of the file decides: its holder
touches it every `BEAT_S`, and after `LEASE_S` without that it counts as dead.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gkd_dist.errors import GkdError, RunError

logger = logging.getLogger(__name__)

BEAT_S = 5.0
LEASE_S = 60.0
"""Many beats: a file server may stand still for some of them."""
_POLL_S = 0.2


class Heartbeat:
    """Touches `path` from a thread of its own until it is stopped.

    Args:
        taken_by: who else holds the file now; None: nobody.
        end: told who, once; the process must not write into the directory any more.
    """

    def __init__(self, path: Path, taken_by: Callable[[], object | None], end: Callable[[object], object]) -> None:
        self._path = path
        self._taken_by = taken_by
        self._end = end
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """May be called twice."""
        self._is_over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT_S):
            with suppress(OSError, RunError):  # a disk that is away for a moment; a file that is just being written
                other = self._taken_by()
                if other is not None:
                    self._end(other)
                    return
                os.utime(self._path)


def end_process(path: Path, other: object) -> None:
    """This process was silent for so long that another one took its place: it was frozen, or cut off from the disk."""
    text = f"\nerror: {path.parent}: taken over by {other}, while this process gave no sign of life; it ends here\n"
    os.write(2, text.encode())
    os._exit(GkdError.exit_code)


def is_silent(path: Path) -> bool:
    """Whether the lease is over, by the clock of this host; for those who only look."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > LEASE_S
    return True


def await_silence(path: Path) -> bool:
    """Watch the file for the rest of its lease, and no longer than that: whether no sign came.

    Nothing is compared with the clock of this host, which may differ from that of the file server.
    """
    first = _touched_at(path)
    rest_s = min(LEASE_S, LEASE_S - (_now_ns(path.parent) - first) / 1e9)
    if rest_s > 0:
        logger.warning("%s: its holder is elsewhere or not known; waiting %.0f s for a sign of life", path, rest_s)
    end = time.monotonic() + rest_s
    while time.monotonic() < end:
        time.sleep(_POLL_S)
        if _touched_at(path) != first:
            return False
    return True


def _touched_at(path: Path) -> int:
    """Nanoseconds; opened anew, because network file systems ask their server then."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _now_ns(folder: Path) -> int:
    """The file server's clock."""
    probe = folder / f".now.{os.getpid()}"
    try:
        probe.touch()
        return _touched_at(probe)
    finally:
        probe.unlink(missing_ok=True)
