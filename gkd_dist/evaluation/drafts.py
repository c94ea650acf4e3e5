"""Completions on disk while they are written, so that `gkd generate` and `gkd eval` go on where they were stopped."""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from gkd_dist.errors import RunError
from gkd_dist.evaluation.writers import Completion
from gkd_dist.types import Prompt

_HEAD = b'{"of": "'
_ANY_HEAD = re.compile(_HEAD + rb'[0-9a-f]*"?}?\n?')


def draft_path(output: Path) -> Path:
    """Where what becomes `output`, a file or a folder, is kept until it is there."""
    return output.with_name(f"{output.name}.draft")


class Drafts:
    """JSON lines beside the file or folder that will be written: who wrote them for what, then one completion each.

    Args:
        path: `draft_path` of it.
        author: all that decides a completion beside its prompt (model, decoding, seed), as JSON has it.
        prompts: as `write_all` gets them.
        tell: hears what becomes of drafts that are there already.

    What is there of another author, for other prompts, or of something else is moved to `FILE.draft.N`. A line that a
    kill cut off is left out: its prompt is asked again.

    Raises:
        RunError: on entering: another process writes there. The kernel's lock on the file ends with its process, or
            with the block: until then the file that is written from them is nobody else's either.
    """

    def __init__(
        self,
        path: Path,
        author: Mapping[str, Any],
        prompts: Sequence[Prompt],
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._path = path
        self._head = {"of": _digest(author, prompts)}
        self._num_prompts = len(prompts)
        self._tell = tell
        self._stream: IO[bytes] | None = None
        self.completions: dict[int, Completion] = {}
        """By place among the prompts."""

    @property
    def is_begun(self) -> bool:
        """Whether what is there is of this command."""
        try:
            with self._path.open("rb") as file:
                return file.readline() == _line(self._head)
        except FileNotFoundError:
            return False

    def __enter__(self) -> "Drafts":
        self._stream = _locked(self._path)
        try:
            while (kept := self._kept(content := self._path.read_bytes())) is None and not _is_empty(content):
                former = _free(self._path)
                self._path.rename(former)
                self._tell(f"what {self._path} held is of another command: it is kept as {former}, all is written anew")
                self._stream.close()
                self._stream = _locked(self._path)
            os.truncate(self._path, 0 if kept is None else content.rfind(b"\n") + 1)
            if kept is None:
                self._put(self._head)
        except BaseException:
            self._stream.close()
            raise
        self.completions = kept or {}
        if kept:
            self._tell(f"going on behind {len(kept)} of {self._num_prompts} completions, kept in {self._path}")
        return self

    def _kept(self, content: bytes) -> dict[int, Completion] | None:
        """What is there of this command; None: something else is."""
        head = _line(self._head)
        return _completions(content[len(head) :]) if content.startswith(head) else None

    def add(self, completions: Mapping[int, Completion]) -> None:
        """They outlive this process from now on."""
        for place, each in completions.items():
            self._put({"place": place, "token_ids": each.token_ids.tolist(), "is_truncated": each.is_truncated})
        if self._stream is not None:
            self._stream.flush()
        self.completions |= completions

    def discard(self) -> None:
        """They are of no use any more: what was to be written of them is."""
        self._path.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def _put(self, line: dict[str, Any]) -> None:
        if self._stream is None:
            raise RuntimeError("drafts are added inside `with`")
        self._stream.write(_line(line))


def holds_drafts(path: Path) -> bool:
    """Whether they are of any command; what else may be there is of no concern."""
    try:
        with path.open("rb") as file:
            return _ANY_HEAD.match(file.readline()) is not None
    except (FileNotFoundError, IsADirectoryError):
        return False


@contextmanager
def superseding(path: Path) -> Iterator[None]:
    """Nobody writes what drafts at `path` become but the block, behind which they are of no use and removed.

    An error keeps them. What is no drafts stays in either case.

    Raises:
        RunError: another process writes there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        is_useless = path.stat().st_size == 0  # made by the lock
        try:
            yield
            is_useless = is_useless or holds_drafts(path)
        finally:
            if is_useless:
                path.unlink()


def _locked(path: Path) -> IO[bytes]:
    """To be written at its end, and by nobody else."""
    while True:
        stream = path.open("ab")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, stream):
                return stream
        except BlockingIOError as error:
            stream.close()
            raise RunError(
                f"{path}: another process writes there; wait until it ends, or choose another output"
            ) from error
        stream.close()  # who held it took it away between the two calls


def _is_at(path: Path, stream: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _free(path: Path) -> Path:
    """`FILE.N` with the first N from 1 on that is not there."""
    number = 1
    while (former := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return former


def _is_empty(content: bytes) -> bool:
    """Whether it is a first line at most, of any command, perhaps cut."""
    return _HEAD[: len(content)] == content or _ANY_HEAD.fullmatch(content) is not None


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _completions(content: bytes) -> dict[int, Completion] | None:
    """Of whole lines, by place; None: they are something else."""
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    try:
        return {
            each["place"]: Completion(np.asarray(each["token_ids"], np.int32), each["is_truncated"])
            for each in map(json.loads, lines)
        }
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _digest(author: Mapping[str, Any], prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256(json.dumps(author, sort_keys=True).encode())
    for prompt in prompts:
        digest.update(f"{prompt.sample_id}".encode() + prompt.token_ids.tobytes())
    return digest.hexdigest()
