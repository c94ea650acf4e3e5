"""Folders that appear whole or not at all, and a cache made of them (floor F3).

A folder is written under a hidden sibling name, its manifest last, flushed to disk, then renamed into place. A build
that is killed leaves only the hidden sibling, which the next build removes.
"""

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gkd_dist.disk import flush
from gkd_dist.errors import ModelError

MANIFEST_NAME = "gkd_manifest.json"
FORMAT_VERSION = 1
"""Part of every cache key: raise it when what is written changes."""

Writer = Callable[[Path], Mapping[str, Any]]
"""Fills the (existing, empty) folder it is given and returns JSON facts for the manifest."""


def default_cache_dir() -> Path:
    """$GKD_CACHE_DIR, else $XDG_CACHE_HOME/gkd_dist, else ~/.cache/gkd_dist."""
    if chosen := os.environ.get("GKD_CACHE_DIR"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gkd_dist"


def cache_key(facts: Mapping[str, Any]) -> str:
    """Ten hex digits that change with any of the JSON `facts` and with the format of this cache."""
    text = json.dumps({"format": FORMAT_VERSION, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def require_free(target: Path) -> None:
    """Raise ModelError unless `target` is absent or an empty folder."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise ModelError(f"{target} exists and is not empty; choose another output folder or remove this one first")


def write_whole(target: Path, write: Writer) -> None:
    """Fill a sibling of `target` with `write`, then rename it to `target`.

    Raises:
        ModelError: `target` holds something, or the disk refuses.
    """
    require_free(target)
    scratch = target.parent / f".{target.name}.{uuid.uuid4().hex}.partial"
    try:
        scratch.mkdir(parents=True)
        facts = write(scratch)
        files = {str(path.relative_to(scratch)): path.stat().st_size for path in _files(scratch)}
        manifest = {"format": FORMAT_VERSION, **facts, "files": files}
        (scratch / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for path in [*_files(scratch), scratch]:
            flush(path)
        scratch.rename(target)  # replaces an empty folder, never a filled one
        flush(target.parent)
    except OSError as error:
        raise ModelError(f"cannot write {target}: {error}; check free space and permissions there") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def cached(target: Path, write: Writer) -> Path:
    """`target`, built with `write` unless it is there already.

    One process builds, others wait for it; the wait ends when the builder dies. A damaged folder is built again.
    """
    if is_whole(target):
        return target
    with _locked(target):
        if not is_whole(target):
            for leftover in target.parent.glob(f".{target.name}.*.partial"):
                shutil.rmtree(leftover, ignore_errors=True)
            if target.exists():
                shutil.rmtree(target)
            write_whole(target, write)
    return target


def is_whole(folder: Path) -> bool:
    """Whether the manifest is there and every file it lists has its size."""
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        sizes: dict[str, int] = manifest["files"]
        return all((folder / name).stat().st_size == num_bytes for name, num_bytes in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise ModelError(
            f"cannot use the cache {target.parent}: {error}; set GKD_CACHE_DIR to a writable local folder"
        ) from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
