"""A file that only grows, by whole records (floor F2)."""

import errno
import os
from pathlib import Path

from gkd_dist.disk import flush
from gkd_dist.fault_points import fault_point


class AppendFile:
    """Unbuffered: what `append` has written outlives the process; `sync` makes it outlive a power cut.

    Where a flush fails, or a half record cannot be taken back, nobody knows what the disk holds, and a later flush that
    succeeds would not tell (pages that could not be written count as written): from then on every call is refused.

    Args:
        path: made, with the folders above it, when it is missing.
        from_byte: where the first record goes; what lies behind is cut off. None: at the end.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, *, from_byte: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        self._path = path
        self.is_sound = True
        """False: calls are refused."""
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        if is_new:  # a file is lost with its name, however well it is flushed itself
            flush(path.parent)
            flush(path.parent.parent)
        self.num_bytes = os.lseek(self._descriptor, 0, os.SEEK_END)
        if from_byte is not None and from_byte < self.num_bytes:
            self._cut(from_byte)

    def append(self, *parts: bytes | memoryview) -> None:
        """Write one record, or nothing.

        Raises:
            OSError: it could not be written; the file has its former length.
            ValueError: the file was closed.
        """
        if self._descriptor is None:
            raise ValueError("the file is closed")
        self._check()
        try:
            for part in parts:
                self._write(self._descriptor, memoryview(part))
                fault_point("append_file.in_record")
        except BaseException:
            self._cut(self.num_bytes)
            raise
        self.num_bytes += sum(memoryview(part).nbytes for part in parts)

    def sync(self) -> None:
        """Returns once everything appended is on the disk; nothing to do after `close`.

        Raises:
            OSError: it is not, now or in a former call.
        """
        if self._descriptor is None:
            return
        self._check()
        try:
            fault_point("append_file.sync")
            os.fsync(self._descriptor)
        except OSError:
            self.is_sound = False
            raise

    def close(self) -> None:
        """Flush to disk, unless that failed before, and let go; closing twice is fine."""
        try:
            if self.is_sound:
                self.sync()
        finally:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def _write(self, descriptor: int, view: memoryview) -> None:
        while view.nbytes:
            view = view[os.write(descriptor, view) :]

    def _cut(self, num_bytes: int) -> None:
        if self._descriptor is None:
            return
        try:
            os.ftruncate(self._descriptor, num_bytes)
            self.num_bytes = os.lseek(self._descriptor, num_bytes, os.SEEK_SET)
        except OSError:
            self.is_sound = False
            raise

    def _check(self) -> None:
        if not self.is_sound:
            raise OSError(errno.EIO, "an earlier write failed, so what it holds is not known", str(self._path))
