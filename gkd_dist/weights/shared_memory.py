"""Weight buckets as files in shared memory: how they reach an engine's own process on the same host.

One segment is one folder below /dev/shm (or the temporary folder where there is none) with one file per bucket. Its
name tells the process that wrote it, so that what a killed process left behind can be found and removed.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gkd_dist.types import ByteArray

_SHM = Path("/dev/shm")
_PREFIX = "gkd-weights-"


class SharedSegment:
    """Buckets of one publication, readable by path until closed.

    with SharedSegment() as segment:
        segment.write(buckets)  # from any thread: closing waits for it
        engine.load(segment.paths)
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_base()))
        self._writing = threading.Lock()
        self.paths: tuple[Path, ...] = ()

    def write(self, buckets: Sequence[ByteArray]) -> None:
        """Copy `buckets` ([num_bytes] uint8 each) into the segment: one memory copy.

        Raises:
            OSError: shared memory is full, or the segment is closed.
        """
        with self._writing:
            paths = [self.folder / f"bucket-{index}" for index in range(len(buckets))]
            for path, bucket in zip(paths, buckets, strict=True):
                with path.open("wb") as file:
                    file.write(memoryview(np.ascontiguousarray(bucket)))
            self.paths = tuple(paths)

    def close(self) -> None:
        """Remove the files; a reader that has mapped them keeps its view."""
        with self._writing:  # a file written behind the removal would stay
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "SharedSegment":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweep() -> None:
    """Remove the segments of processes that are no more."""
    for folder in _base().glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def map_bucket(path: str) -> ByteArray:
    """[num_bytes] uint8, a private mapping: no copy until somebody writes."""
    return np.memmap(path, dtype=np.uint8, mode="c")


def _base() -> Path:
    return _SHM if _SHM.is_dir() else Path(tempfile.gettempdir())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's, or no pid of this host
        return True
    return True
