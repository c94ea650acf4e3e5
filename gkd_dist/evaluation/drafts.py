"""Completions on disk while they are written, so that `gkd generate` goes on where it was stopped."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from gkd_dist.evaluation.writers import Completion
from gkd_dist.types import Prompt


class Drafts:
    """JSON lines beside the file that will be written: who wrote them for what, then one completion each.

    Args:
        path: `FILE.draft`.
        author: all that decides a completion beside its prompt (model, decoding, seed), as JSON has it.
        prompts: as `write_all` gets them.

    Drafts of another author, or for other prompts, are begun anew. A line that a kill cut off is left out: its
    prompt is asked again.
    """

    def __init__(self, path: Path, author: Mapping[str, Any], prompts: Sequence[Prompt]) -> None:
        self._path = path
        self._head = {"of": _digest(author, prompts)}
        self._stream: IO[str] | None = None
        self.completions: dict[int, Completion] = {}
        """By place among the prompts."""

    def __enter__(self) -> "Drafts":
        lines = _whole_lines(self._path)
        if not lines or lines[0] != self._head:
            lines = []
        self.completions = {
            each["place"]: Completion(np.asarray(each["token_ids"], np.int32), each["is_truncated"])
            for each in lines[1:]
        }
        self._stream = self._path.open("a" if lines else "w", encoding="utf-8")
        if not lines:
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
