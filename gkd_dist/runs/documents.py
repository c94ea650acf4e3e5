"""Small JSON files that one process writes and others read: replaced whole, read strictly (floor F2)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict, ValidationError

from gkd_dist.config.base import Strict
from gkd_dist.disk import flush
from gkd_dist.errors import RunError

MAX_BYTES = 1 << 20
"""A longer file is no document of ours."""


class Document(Strict):
    """The content of such a file: unknown keys and values of another type are errors."""

    model_config = ConfigDict(strict=True)


Kind = TypeVar("Kind", bound=Document)


class DamagedError(RunError):
    """Something else than such a file is there, such as one that a power cut left."""


def replace_file(path: Path, text: str, *, survives_power_cut: bool = True) -> None:
    """Put `text` into `path`, in folders made where they are missing; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if survives_power_cut:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if survives_power_cut:
        flush(path.parent)


def write_document(path: Path, document: Document) -> None:
    """As `replace_file`; what processes that live now tell each other need not survive a power cut."""
    replace_file(path, document.model_dump_json() + "\n", survives_power_cut=False)


@contextmanager
def on_disk() -> Iterator[None]:
    """For commands that look at a run: whatever its files have become, they say which one is not as it should be.

    Raises:
        RunError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename}: {error.strerror}") from error


def read_document(path: Path, kind: type[Kind]) -> Kind | None:
    """What `path` holds; None where there is no such file, or an empty one.

    Raises:
        DamagedError: something else is in it.
        RunError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    if not content.strip():
        return None
    if len(content) > MAX_BYTES:
        raise DamagedError(f"{path}: larger than {MAX_BYTES} bytes, which no such file is; remove it")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DamagedError(f"{path}: {place + ': ' if place else ''}{first['msg']}; remove it") from error


def read_intact(path: Path, kind: type[Kind]) -> Kind | None:
    """As `read_document`; a damaged file is as good as none, for those who wait for the next one."""
    try:
        return read_document(path, kind)
    except DamagedError:
        return None
