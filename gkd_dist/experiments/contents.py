"""What files and folders hold, as digests: whether what a run reads is what it read before."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gkd_dist.runs.documents import replace_file


class Contents:
    """SHA-256 of files; one whose size and time of change stay is read once.

    Args:
        memory: JSON file where digests are kept between commands.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        try:
            known = json.loads(memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        if isinstance(known, dict):
            self._known = known
        self._has_news = False

    def digests(self, paths: Iterable[Path]) -> dict[str, str]:
        """By path; a folder's is of the names and contents of all that is in it. What cannot be read is left out."""
        found = {}
        for path in paths:
            try:
                found[str(path)] = self._folder(path) if path.is_dir() else self._file(path)
            except OSError:  # the run itself tells what is wrong with it
                continue
        return found

    def keep(self) -> None:
        """Write the memory, where there is something new."""
        if self._has_news and self._memory.parent.is_dir():
            replace_file(self._memory, json.dumps(self._known, indent=1) + "\n", survives_power_cut=False)
            self._has_news = False

    def _file(self, path: Path) -> str:
        state = path.stat()
        known = self._known.get(str(path))
        if isinstance(known, list) and known[:2] == [state.st_size, state.st_mtime_ns] and len(known) == 3:
            return str(known[2])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._known[str(path)] = [state.st_size, state.st_mtime_ns, digest]
        self._has_news = True
        return digest

    def _folder(self, path: Path) -> str:
        names = sorted(
            each for each in path.rglob("[!.]*") if each.is_file() and not _is_hidden(each.relative_to(path))
        )
        listing = [[str(each.relative_to(path)), self._file(each)] for each in names]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def named_files(value: Any, folder: Path) -> Iterator[Path]:
    """Files and folders that texts inside of `value` name, also as `key=PATH`.

    Args:
        folder: what is in it does not count.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from named_files(each, folder)
    elif isinstance(value, str):
        for text in (value, value.partition("=")[2]):
            path = os.path.expanduser(text)
            if os.path.isfile(path) or (os.sep in path and os.path.isdir(path)):
                found = Path(path).absolute()
                if not found.is_relative_to(folder.absolute()):
                    yield found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
