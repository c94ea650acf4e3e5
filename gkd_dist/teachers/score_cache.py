"""Teacher targets on disk, one frame in a file, each under a digest of everything that it depends on."""

import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gkd_dist.errors import WireError
from gkd_dist.fault_points import fault_point
from gkd_dist.targets import TeacherTargets
from gkd_dist.wire.codec import decode_targets, encode

logger = logging.getLogger(__name__)

_COUNTS_PER_BOUND = 32
"""The folder is counted each time a process has written this share of the bound."""
_LEFT_FREE = 0.1
"""Share of the bound that an eviction makes room for, so that the next is not due at once."""


class ScoreCache:
    """A bounded folder of targets, shared by any number of threads and processes without locks between them.

    A file appears whole, by a rename, and is found by its name alone; two processes that write the same one write the
    same. What cannot be read as it was written (frames carry a checksum) is removed and counts as absent. A disk that
    refuses costs the entry, not the run.

    The files used least recently go first. Each process counts the folder when it first writes, and again for each
    1/32 of the bound it has written since, so that R writing processes stay below (1 + R/32) times the bound.

    Args:
        folder: made when first written to. What lies in it belongs to the cache.
        max_bytes: of all files together, whoever wrote them.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._uncounted_bytes = max_bytes  # of former runs, and of other processes
        self._counting = threading.Lock()
        self._warned = False

    def find(self, key: str, num_tokens: int) -> TeacherTargets | None:
        """What was kept under `key`: targets of that many tokens, as read-only arrays; None where there are none."""
        path = self._path(key)
        try:
            frame = np.fromfile(path, dtype=np.uint8)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
            return None
        try:
            (targets,) = decode_targets(frame, max_bytes=frame.size)
            if targets.num_tokens != num_tokens:
                raise WireError("record", f"holds targets of {targets.num_tokens} tokens, expected {num_tokens}")
        except (WireError, ValueError) as error:
            logger.warning("removed the damaged score %s: %s", path, error)
            self.drop(key)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used just now
        return targets

    def keep(self, key: str, targets: TeacherTargets) -> None:
        """Write `targets`, and make room for them where the bound asks for it."""
        frame = encode([targets])
        if frame.size > self._max_bytes:
            return
        path = self._path(key)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            frame.tofile(partial)
            fault_point("score_cache.before_rename")
            partial.replace(path)
        except OSError as error:
            self._warn(error)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        self._make_room(frame.size)

    def drop(self, key: str) -> None:
        """Forget what was kept under `key`, if anything."""
        with contextlib.suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.frame"

    def _make_room(self, written_bytes: int) -> None:
        with self._counting:
            self._uncounted_bytes += written_bytes
            if self._uncounted_bytes * _COUNTS_PER_BOUND < self._max_bytes:
                return
            self._uncounted_bytes = 0
            files = sorted(self._files())
            excess = sum(num_bytes for _, num_bytes, _ in files) - self._max_bytes
            if excess <= 0:
                return
            excess += int(_LEFT_FREE * self._max_bytes)
            for _, num_bytes, path in files:
                if excess <= 0:
                    break
                with contextlib.suppress(OSError):
                    os.unlink(path)
                excess -= num_bytes

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """(time of the last use, bytes, path) of every file, those of writers that were killed included."""
        for shelf in _entries(self._folder):
            for file in _entries(shelf.path) if shelf.is_dir() else ():
                with contextlib.suppress(OSError):  # another process evicts too
                    facts = file.stat()
                    yield facts.st_mtime_ns, facts.st_size, file.path

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            logger.warning("the score cache in %s does not work: %s", self._folder, error)
        self._warned = True


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
