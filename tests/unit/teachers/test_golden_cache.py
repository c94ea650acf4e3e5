"""Golden answers on disk: asked once for each model, found again, and never believed when damaged."""

import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file as write
from safetensors.torch import load_file, save_file

from gkd_dist.errors import ModelError
from gkd_dist.teachers.golden import Answers
from gkd_dist.teachers.golden_cache import answers_key, cached_answers
from tests import tiny

ANSWERS = Answers(np.array([[4, 2]], np.int32), np.array([[-0.25, -1.5]], np.float32))
SEQUENCES = tiny.trajectories([(3, 1)])


class Engine:
    def __init__(self, answers: Answers = ANSWERS) -> None:
        self.calls, self._answers = 0, answers

    def __call__(self) -> Answers:
        self.calls += 1
        return self._answers


def test_an_engine_is_asked_once_for_each_key(tmp_path: Path) -> None:
    engine = Engine()
    found = [cached_answers(tmp_path / "golden" / f"{key}.safetensors", engine) for key in ("a", "a", "b")]
    assert engine.calls == 2
    for each in found:
        np.testing.assert_array_equal(each.token_ids, ANSWERS.token_ids)
        np.testing.assert_array_equal(each.log_probs, ANSWERS.log_probs)


def test_of_two_processes_one_asks_and_the_other_reads(tmp_path: Path) -> None:
    """Without the lock both would ask: an answer takes half a second, and both begin together."""
    context = multiprocessing.get_context("fork")
    together, found = context.Barrier(2), context.Queue()

    def ask() -> Answers:
        with (tmp_path / "calls").open("a") as calls:
            calls.write("x")
        time.sleep(0.5)
        return ANSWERS

    def work() -> None:
        together.wait(20)
        found.put(cached_answers(tmp_path / "golden" / "a.safetensors", ask).token_ids.tolist())

    processes = [context.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    assert [found.get(timeout=20) for _ in processes] == [[[4, 2]], [[4, 2]]]
    for process in processes:
        process.join(20)
    assert (tmp_path / "calls").read_text() == "x"
    assert sorted(path.name for path in (tmp_path / "golden").iterdir()) == ["a.lock", "a.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not safetensors at all, but longer than a header"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, content: bytes) -> None:
    engine = Engine()
    cached_answers(tmp_path / "a.safetensors", engine)
    (tmp_path / "a.safetensors").write_bytes(content)
    cached_answers(tmp_path / "a.safetensors", engine)
    cached_answers(tmp_path / "a.safetensors", engine)
    assert engine.calls == 2


def at_fault(log_prob: float) -> Answers:
    return Answers(ANSWERS.token_ids, np.array([[log_prob, -1.5]], np.float32))


@pytest.mark.parametrize("log_prob", [np.nan, 3.0])
def test_answers_at_fault_are_refused_and_not_kept(tmp_path: Path, log_prob: float) -> None:
    with pytest.raises(ModelError, match=r"log-prob.*look at the weights"):
        cached_answers(tmp_path / "a.safetensors", Engine(at_fault(log_prob)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]


def test_answers_at_fault_that_were_kept_are_asked_again(tmp_path: Path) -> None:
    found = at_fault(np.nan)
    write({"token_ids": found.token_ids, "log_probs": found.log_probs}, tmp_path / "a.safetensors")
    assert cached_answers(tmp_path / "a.safetensors", Engine()) is ANSWERS


def test_an_engine_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cached_answers(tmp_path / "a.safetensors", lambda: 1 // 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]
    assert cached_answers(tmp_path / "a.safetensors", Engine()) is ANSWERS


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
