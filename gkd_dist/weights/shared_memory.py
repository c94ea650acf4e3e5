"""Weight buckets in shared memory: how they reach an engine's own process on the same host.

What Ray's object store gave is shared memory already, and an engine maps it where it lies: nothing is copied, samplers
of one machine map the same bytes, and Ray owns them. Any other bucket is copied into a segment.

One segment is one folder below /dev/shm (or the temporary folder where there is none) with one file per bucket. Its
name tells the process that wrote it, so that what a killed process left behind can be found and removed; containers
that share the memory count their processes each for itself, and the name tells that, too.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gkd_dist.types import ByteArray

_SHM = Path("/dev/shm")
_PREFIX = "gkd-weights-"


@dataclass(frozen=True, slots=True)
class SharedBucket:
    """Where every process of this user on this host finds one bucket."""

    path: str
    offset_bytes: int
    num_bytes: int


class SharedSegment:
    """Buckets of one publication, readable by others until closed.

    with SharedSegment() as segment:
        segment.write(buckets)  # from any thread: closing waits for it
        engine.load(segment.buckets)
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_own_prefix()}{os.getpid()}-", dir=_base()))
        self._writing = threading.Lock()
        self._written: Sequence[ByteArray] = ()
        self.buckets: tuple[SharedBucket, ...] = ()
        self.copied_bytes = 0
        """Of `buckets`, what others could not have mapped."""

    def write(self, buckets: Sequence[ByteArray]) -> None:
        """Make `buckets` ([num_bytes] uint8 each) readable: one memory copy of those that others cannot map yet.

        Raises:
            OSError: shared memory is full, or the segment is closed.
        """
        with self._writing:
            mappings = list(_shared_mappings())
            found = [_found(bucket, mappings) for bucket in buckets]
            self.buckets = tuple(
                place or _copied(bucket, self.folder / f"bucket-{index}")
                for index, (bucket, place) in enumerate(zip(buckets, found, strict=True))
            )
            self.copied_bytes = sum(
                bucket.nbytes for bucket, place in zip(buckets, found, strict=True) if place is None
            )
            self._written = buckets  # what lies elsewhere stays there as long as it is held

    def close(self) -> None:
        """Remove the files; a reader that has mapped them keeps its view."""
        with self._writing:  # a file written behind the removal would stay
            shutil.rmtree(self.folder, ignore_errors=True)
            self._written = ()

    def __enter__(self) -> "SharedSegment":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweep() -> None:
    """Remove the segments of processes that are no more."""
    for folder in _base().glob(f"{_own_prefix()}*-*"):
        pid = folder.name.removeprefix(_own_prefix()).partition("-")[0]
        if pid.isdecimal() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def map_bucket(bucket: SharedBucket) -> ByteArray:
    """[num_bytes] uint8, a private mapping: no copy until somebody writes.

    Raises:
        OSError: it is not there (any more).
    """
    if not bucket.num_bytes:  # nothing to map
        return np.empty(0, np.uint8)
    return np.memmap(bucket.path, np.uint8, mode="c", offset=bucket.offset_bytes, shape=(bucket.num_bytes,))


@dataclass(frozen=True, slots=True)
class _Mapping:
    """A part of this process's memory that it shares with the process that started it."""

    start: int
    end: int
    path: str
    offset_bytes: int


def _shared_mappings() -> Iterator[_Mapping]:
    """Ray's store is a file that has no name any more. The raylet, which starts all workers of its host, holds it open
    for them, and what a process holds open others of the same user can open too. Nothing where /proc does not tell."""
    held = _files_of(os.getppid())
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        span, access, offset, device, inode, *_ = line.split(maxsplit=5)
        if access.endswith("s") and (path := held.get((device, int(inode)))):
            start, end = (int(address, 16) for address in span.split("-"))
            yield _Mapping(start, end, path, int(offset, 16))


def _files_of(pid: int) -> dict[tuple[str, int], str]:
    """What a process holds open, by device and inode as /proc/PID/maps writes them."""
    found = {}
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                status = entry.stat()
            except OSError:  # closed meanwhile
                continue
            device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
            found[device, status.st_ino] = entry.path
    except OSError:  # another user's, or a system without /proc
        pass
    return found


def _found(bucket: ByteArray, mappings: Sequence[_Mapping]) -> SharedBucket | None:
    """Where `bucket` can be mapped as it is."""
    start = bucket.ctypes.data
    for each in mappings:
        if each.start <= start and start + bucket.size <= each.end and bucket.flags.c_contiguous:
            found = SharedBucket(each.path, each.offset_bytes + start - each.start, bucket.size)
            return found if _can_be_mapped(found) else None
    return None


def _can_be_mapped(bucket: SharedBucket) -> bool:
    """What can be listed may still be refused, by a security module for one."""
    try:
        map_bucket(bucket)
    except OSError:
        return False
    return True


def _copied(bucket: ByteArray, path: Path) -> SharedBucket:
    with path.open("wb") as file:
        file.write(np.ascontiguousarray(bucket).data)
    return SharedBucket(str(path), 0, bucket.size)


def _own_prefix() -> str:
    try:
        return f"{_PREFIX}{os.stat('/proc/self/ns/pid').st_ino}-"
    except OSError:  # a system without them
        return f"{_PREFIX}0-"


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
