"""What most runs of tiny models work on; a file that needs others has fixtures of its own by these names."""

from pathlib import Path

import pytest

from tests import tiny
from tests.tiny_runs import save_pairs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`student` and `teacher`, with one tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "student": tiny.save_causal(folder / "student", seed=1),
        "teacher": tiny.save_causal(folder / "teacher", seed=2, num_layers=3),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")
