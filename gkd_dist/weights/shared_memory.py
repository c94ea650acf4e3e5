"""Weight buckets as files in shared memory: how they reach an engine's own process on the same host.

One segment is one folder below /dev/shm (or the temporary folder where there is none) with one file per bucket.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gkd_dist.types import ByteArray

_SHM = Path("/dev/shm")


class SharedSegment:
    """Buckets of one publication, readable by path until closed.

    with SharedSegment.write(buckets) as segment:
        engine.load(segment.paths)
    """

    def __init__(self, folder: Path, paths: tuple[Path, ...]) -> None:
        self._folder = folder
        self.paths = paths

    @classmethod
    def write(cls, buckets: Sequence[ByteArray]) -> "SharedSegment":
        """Copy `buckets` ([num_bytes] uint8 each) into a new segment: one memory copy.

        Raises:
            OSError: shared memory is full; the partly written segment is removed.
        """
        base = _SHM if _SHM.is_dir() else Path(tempfile.gettempdir())
        folder = Path(tempfile.mkdtemp(prefix="gkd-weights-", dir=base))
        try:
            paths = []
            for index, bucket in enumerate(buckets):
                path = folder / f"bucket-{index}"
                with path.open("wb") as file:
                    file.write(memoryview(np.ascontiguousarray(bucket)))
                paths.append(path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(folder, tuple(paths))

    def close(self) -> None:
        """Remove the files; a reader that has mapped them keeps its view."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "SharedSegment":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def map_bucket(path: str) -> ByteArray:
    """[num_bytes] uint8, a private mapping: no copy until somebody writes."""
    return np.memmap(path, dtype=np.uint8, mode="c")
