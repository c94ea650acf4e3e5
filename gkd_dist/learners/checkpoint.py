"""The student on disk: a folder that transformers and vLLM load unchanged, whole or not at all."""

import os
import shutil
from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig

from gkd_dist.learners.model import StudentModel


def save_student(student: StudentModel, path: Path, *, source: Path) -> None:
    """Write weights, config, generation config and tokenizer to `path`.

    Everything is written to a sibling folder, flushed to disk, and renamed.

    Args:
        source: where the tokenizer and the generation config come from.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        student.model.config.use_cache = True
        student.model.save_pretrained(draft)
        AutoTokenizer.from_pretrained(source).save_pretrained(draft)
        if (source / "generation_config.json").is_file():
            GenerationConfig.from_pretrained(source).save_pretrained(draft)
        for file in draft.iterdir():
            _flush(file)
        _flush(draft)
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
        _flush(path.parent)
    finally:
        student.model.config.use_cache = False
        shutil.rmtree(draft, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
