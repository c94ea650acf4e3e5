"""Golden answers on disk, under the hash of everything that they depend on."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gkd_dist.errors import ModelError
from gkd_dist.teachers.fingerprint import model_fingerprint, sequences_key
from gkd_dist.teachers.golden import Answers
from gkd_dist.types import Trajectory


def cached_answers(file: Path, ask: Callable[[], Answers]) -> Answers:
    """What `ask` answers, asked once for each `file`: by one process at a time, the others wait and read.

    Args:
        file: ends in .safetensors, with a name from `answers_key`; its folder is made when missing. One that cannot be
            read, or whose answers are at fault, is made anew.

    Raises:
        ModelError: the answers are at fault; they are not kept.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file.with_suffix(".lock")):
        found = _read(file)
        if found is None:
            found = ask()
            if found.fault:
                raise ModelError(f"{found.fault}, asked about golden sequences; look at the weights of this model")
            _write(file, found)
    return found


def answers_key(model: Path, sequences: Sequence[Trajectory], facts: Mapping[str, object]) -> str:
    """A digest of the model's folder, the golden sequences, and whatever else the answers depend on: `facts`."""
    return sequences_key(model_fingerprint(model, facts), sequences)


def _read(file: Path) -> Answers | None:
    try:
        with safe_open(file, framework="np") as tensors:
            found = Answers(tensors.get_tensor("token_ids"), tensors.get_tensor("log_probs"))
    except (OSError, SafetensorError, ValueError):
        return None
    return None if found.fault else found


def _write(file: Path, answers: Answers) -> None:
    """`file` appears whole or not at all."""
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        save_file({"token_ids": answers.token_ids, "log_probs": answers.log_probs}, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one process; let go when it ends, however it ends."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
