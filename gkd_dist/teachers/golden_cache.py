"""Golden answers on disk, under the hash of everything that they depend on."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gkd_dist.teachers.golden import Answers
from gkd_dist.types import Trajectory

_WHOLE_BYTES = 1 << 30
"""A weight file up to this size is hashed whole, a larger one by this many bytes of evenly spaced blocks."""
_BLOCK_BYTES = 1 << 20


def cached_answers(folder: Path, key: str, ask: Callable[[], Answers]) -> Answers:
    """What `ask` answers, asked once for each `key`: by one process at a time, the others wait and read.

    Args:
        folder: where the files lie; made when missing. A file that cannot be read is made anew.
        key: from `answers_key`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{key}.safetensors"
    with _locked(folder / f"{key}.lock"):
        found = _read(file)
        if found is None:
            found = ask()
            partial = file.with_suffix(f".{os.getpid()}")
            save_file({"token_ids": found.token_ids, "log_probs": found.log_probs}, partial)
            partial.replace(file)
    return found


def answers_key(model: Path, sequences: Sequence[Trajectory], facts: Mapping[str, object]) -> str:
    """A digest of the model's folder, the golden sequences, and whatever else the answers depend on.

    Args:
        facts: by name, each with a `repr` that tells different values apart (dtype, version of the engine).
    """
    digest = xxhash.xxh3_128()
    for name, value in sorted(facts.items()):
        digest.update(f"{name}={value!r};".encode())
    for sequence in sequences:
        for ids in (sequence.prompt_ids, sequence.completion_ids):
            digest.update(f"{ids.size}:".encode())
            digest.update(ids.tobytes())
    for file in sorted([model / "config.json", *model.glob("*.safetensors")]):
        digest.update(f"{file.name}:{file.stat().st_size};".encode())
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    """The file's content, or an even choice of it: the first block holds the header of a weight file."""
    size = file.stat().st_size
    step = max(_BLOCK_BYTES, -(-size // (_WHOLE_BYTES // _BLOCK_BYTES)))
    with file.open("rb") as stream:
        for start in range(0, size, step):
            stream.seek(start)
            yield stream.read(_BLOCK_BYTES)


def _read(file: Path) -> Answers | None:
    try:
        with safe_open(file, framework="np") as tensors:
            return Answers(tensors.get_tensor("token_ids"), tensors.get_tensor("log_probs"))
    except (OSError, SafetensorError, ValueError):
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one process; let go when it ends, however it ends."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
