"""The student on disk: a folder that transformers and vLLM load unchanged, whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig

from gkd_dist.disk import flush
from gkd_dist.errors import ModelError
from gkd_dist.learners.adapters import merged_state_dict, save_adapters
from gkd_dist.learners.dropout import dropout_values, set_dropout
from gkd_dist.learners.model import StudentModel

_GENERATION = "generation_config.json"


def save_student(
    student: StudentModel, path: Path, *, source: Path, state_dict: dict[str, torch.Tensor] | None = None
) -> None:
    """Write weights, config, generation config and tokenizer to `path`, or adapters and tokenizer.

    Everything is written to a sibling folder, flushed to disk, and renamed.

    Args:
        source: where the tokenizer and the generation config come from.
        state_dict: the whole model, where the student holds a part of it.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed while it saved
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _write(student, draft, source, state_dict)
        for file in draft.iterdir():
            file.chmod(0o644)  # safetensors writes for its owner alone; a model is there to be served
            flush(file)
        flush(draft)
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_saves(student: StudentModel, source: Path) -> None:
    """Save everything but the weights to a temporary folder: what fails there would fail after hours of training.

    Raises:
        ModelError: the student could be trained, but not saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            _write(student, Path(folder), source, state_dict={"probe": torch.zeros(1)})
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"student {source} could be trained but not saved: {error}") from error


def _write(
    student: StudentModel, folder: Path, source: Path, state_dict: dict[str, torch.Tensor] | None = None
) -> None:
    adapters = student.adapters
    if adapters is not None and adapters.config.save == "adapter":
        save_adapters(student.model, adapters, folder)
    else:
        if adapters is not None and state_dict is None:
            state_dict = merged_state_dict(student.model)
        with _as_loaded(student):
            student.model.save_pretrained(folder, state_dict=state_dict)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    # Byte for byte, or not at all: transformers loads files that it refuses to write, such as a temperature without
    # do_sample. Where the source has none, none is saved, and transformers derives one from the config as before.
    (folder / _GENERATION).unlink(missing_ok=True)
    if (source / _GENERATION).is_file():
        shutil.copyfile(source / _GENERATION, folder / _GENERATION)


@contextmanager
def _as_loaded(student: StudentModel) -> Iterator[None]:
    """The model with the configuration of its source (cache, dropout) and a generation config that can be written."""
    model, own = student.model, student.model.generation_config
    learning = dropout_values(model.config)
    model.config.use_cache = True
    set_dropout(model.config, student.dropout)
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.config.use_cache = False
        set_dropout(model.config, learning)
        model.generation_config = own
