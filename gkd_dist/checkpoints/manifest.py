"""Which files a checkpoint consists of, with sizes and checksums (floor F2).

`manifest.json`: {"version": 1, "step": N, "files": {"learner/learner.json": {"bytes": 812, "xxh3_128": "..."}, ...}}.
The marker `COMPLETE` holds the checksum of the manifest. Checksums find accidents, not forgery: what reads a checkpoint
must not run anything found in it, whoever wrote it.
"""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import xxhash

from gkd_dist.disk import flush, write_whole
from gkd_dist.errors import plain
from gkd_dist.fault_points import fault_point

MANIFEST = "manifest.json"
MARKER = "COMPLETE"
_VERSION = 1
_MAX_MANIFEST_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _File:
    num_bytes: int
    digest: str


def seal(folder: Path, step: int) -> bytes:
    """Flush everything in `folder` to disk and write its manifest; returns what the marker has to hold.

    Raises:
        OSError: something could not be written or read again.
        ValueError: something in the folder is no plain file and no folder.
    """
    files: dict[str, dict[str, int | str]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            flush(path)
            found = _measure(path)
            files[path.relative_to(folder).as_posix()] = {"bytes": found.num_bytes, "xxh3_128": found.digest}
            fault_point("checkpoint.between_files")
        elif stat.S_ISDIR(mode):
            flush(path)
        else:
            raise ValueError(f"{path} is no plain file: a checkpoint cannot hold it")
    content = json.dumps({"version": _VERSION, "step": step, "files": files}, indent=1).encode()
    write_whole(folder / MANIFEST, content)
    return _digest(content)


def mark(folder: Path, sealed: bytes) -> None:
    """Say that the checkpoint is whole: the last thing that is written.

    Raises:
        OSError: it could not be written.
    """
    write_whole(folder / MARKER, sealed)


def is_marked(folder: Path) -> bool:
    return os.path.lexists(folder / MARKER)


def fault_of(
    folder: Path, step: int, *, checksums: bool = True, progressed: Callable[[], object] = lambda: None
) -> str | None:
    """Why `folder` is not the checkpoint of `step` that was sealed; None when it is.

    Args:
        checksums: also read every byte; without, sizes alone are compared.
        progressed: called again and again while bytes are read.
    """
    if not is_marked(folder):
        return f"it was never finished ({MARKER} is missing)"
    try:
        files = _read(folder, step)
        for name, expected in files.items():
            fault = _file_fault(folder, name, expected, checksums, progressed)
            if fault:
                return f"{name} {fault}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return plain(error)
    except ValueError as error:
        return str(error)
    return None


def _read(folder: Path, step: int) -> dict[str, _File]:
    """Raises OSError and ValueError for everything that `seal` does not write."""
    content = _small_file(folder / MANIFEST)
    if _small_file(folder / MARKER) != _digest(content):
        raise ValueError(f"{MANIFEST} is not the one that {MARKER} stands for")
    try:
        manifest = json.loads(content)
        version, own_step = manifest["version"], manifest["step"]
        files = {name: _File(int(entry["bytes"]), str(entry["xxh3_128"])) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} is not a manifest: {error!r}") from error
    if version != _VERSION:
        raise ValueError(f"{MANIFEST} has version {version!r:.20}, this package reads {_VERSION}")
    if own_step != step:
        raise ValueError(f"{MANIFEST} is that of step {own_step!r:.20}")
    return files


def _file_fault(
    folder: Path, name: str, expected: _File, checksums: bool, progressed: Callable[[], object]
) -> str | None:
    parts = PurePosixPath(name).parts
    path = folder.joinpath(*parts)
    if ".." in parts or not path.resolve().is_relative_to(folder.resolve()):
        return "lies outside of the checkpoint"
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is no plain file"
    if status.st_size != expected.num_bytes:
        return f"has {status.st_size} bytes, not {expected.num_bytes}"
    if checksums and _measure(path, progressed).digest != expected.digest:
        return "does not match its checksum"
    return None


def _small_file(path: Path) -> bytes:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_MANIFEST_BYTES:
        raise ValueError(f"{path.name} is no plain file of at most {_MAX_MANIFEST_BYTES} bytes")
    return path.read_bytes()


def _measure(path: Path, progressed: Callable[[], object] = lambda: None) -> _File:
    state, num_bytes = xxhash.xxh3_128(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
            num_bytes += len(chunk)
            progressed()
    return _File(num_bytes, state.hexdigest())


def _digest(content: bytes) -> bytes:
    return xxhash.xxh3_128(content).hexdigest().encode() + b"\n"
