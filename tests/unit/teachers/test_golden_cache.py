"""Golden answers on disk: asked once for each model, found again, and never believed when damaged."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from gkd_dist.teachers.golden import Answers
from gkd_dist.teachers.golden_cache import answers_key, cached_answers
from tests import tiny

ANSWERS = Answers(np.array([[4, 2]], np.int32), np.array([[-0.25, -1.5]], np.float32))
SEQUENCES = tiny.trajectories([(3, 1)])


class Engine:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Answers:
        self.calls += 1
        return ANSWERS


def test_an_engine_is_asked_once_for_each_key(tmp_path: Path) -> None:
    engine = Engine()
    found = [cached_answers(tmp_path / "golden", key, engine) for key in ("a", "a", "b")]
    assert engine.calls == 2
    for each in found:
        np.testing.assert_array_equal(each.token_ids, ANSWERS.token_ids)
        np.testing.assert_array_equal(each.log_probs, ANSWERS.log_probs)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all, but longer than a header"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, content: bytes) -> None:
    engine = Engine()
    cached_answers(tmp_path, "a", engine)
    (tmp_path / "a.safetensors").write_bytes(content)
    cached_answers(tmp_path, "a", engine)
    cached_answers(tmp_path, "a", engine)
    assert engine.calls == 2


def test_an_engine_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cached_answers(tmp_path, "a", lambda: 1 // 0)
    assert cached_answers(tmp_path, "a", Engine()) is ANSWERS


def test_the_key_changes_with_everything_that_answers_depend_on(tmp_path: Path) -> None:
    model = tiny.save_causal(tmp_path)

    def key(sequences=SEQUENCES, **facts: object) -> str:
        return answers_key(model, sequences, {"dtype": "bfloat16"} | facts)

    keys = [key(), key(dtype="float32"), key(tiny.trajectories([(3, 1)], seed=5)), key(engine_args={"seed": 3})]
    assert key() == keys[0]
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    keys.append(key())
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    keys.append(key())
    assert len(set(keys)) == len(keys)
