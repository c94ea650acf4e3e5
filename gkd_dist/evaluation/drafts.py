"""Completions on disk while they are written, so that `gkd generate` goes on where it was stopped."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from gkd_dist.errors import RunError
from gkd_dist.evaluation.writers import Completion
from gkd_dist.types import Prompt


class Drafts:
    """JSON lines beside the file that will be written: who wrote them for what, then one completion each.

    Args:
        path: `FILE.draft`.
        author: all that decides a completion beside its prompt (model, decoding, seed), as JSON has it.
        prompts: as `write_all` gets them.
        tell: hears what becomes of drafts that are there already.

    Drafts of another author, or for other prompts, are begun anew. A line that a kill cut off is left out: its
    prompt is asked again.

    Raises:
        RunError: on entering: another process writes there. The kernel's lock on the file ends with its process.
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
        self._stream: IO[str] | None = None
        self.completions: dict[int, Completion] = {}
        """By place among the prompts."""

    def __enter__(self) -> "Drafts":
        self._stream = self._path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._stream.close()
            raise RunError(
                f"{self._path}: another process writes there; wait until it ends, or choose another --output"
            ) from error
        lines = _whole_lines(self._path)
        if lines and lines[0] != self._head:
            self._tell(f"{self._path}: {len(lines) - 1} completions of another command are dropped, and written anew")
            lines = []
        elif len(lines) > 1:
            self._tell(f"going on behind {len(lines) - 1} of {self._num_prompts} completions, kept in {self._path}")
        self.completions = {
            each["place"]: Completion(np.asarray(each["token_ids"], np.int32), each["is_truncated"])
            for each in lines[1:]
        }
        if not lines:
            self._stream.truncate(0)
            self._put(self._head)
        return self

    def add(self, completions: Mapping[int, Completion]) -> None:
        """They outlive this process from now on."""
        for place, each in completions.items():
            self._put({"place": place, "token_ids": each.token_ids.tolist(), "is_truncated": each.is_truncated})
        if self._stream is not None:
            self._stream.flush()
        self.completions |= completions

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def _put(self, line: dict[str, Any]) -> None:
        if self._stream is None:
            raise RuntimeError("drafts are added inside `with`")
        self._stream.write(json.dumps(line) + "\n")


def _whole_lines(path: Path) -> list[Any]:
    """All but a last one that a kill cut off, which is taken out of the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError:  # no drafts of ours
        return []


def _digest(author: Mapping[str, Any], prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256(json.dumps(author, sort_keys=True).encode())
    for prompt in prompts:
        digest.update(f"{prompt.sample_id}".encode() + prompt.token_ids.tobytes())
    return digest.hexdigest()
