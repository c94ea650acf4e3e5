"""What it takes for bytes to survive a power cut (floor F0): files and the folders that name them are flushed."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Returns once the file, or the names in the folder, are on the disk.

    Raises:
        OSError: they are not (the disk is full or broken).
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, whatever happens meanwhile.

    Raises:
        OSError: it could not be written; what was at `path` is still there.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content)
        flush(draft)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    flush(path.parent)
