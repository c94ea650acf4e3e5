"""Losses that are no number, and completions of extreme lengths."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.gkd_process import Runs
from tests.poison import pairs, same, save_poisoned, weights


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    return save_poisoned(tmp_path / "poisoned")


@pytest.mark.fault(24)
def test_a_step_without_a_finite_gradient_changes_no_weight(local: Runs, poisoned: Path) -> None:
    data = pairs(local.folder / "pairs.jsonl", 6)
    fixed = ("objective.student_fraction=0", "learner.save_steps=1", "learner.max_nonfinite_steps=8")
    local.ends(0, f"student.model={poisoned}", f"data.path={data}", *fixed)
    skipped = [local.steps[step]["skipped"] for step in range(8)]
    assert sorted(set(skipped)) == [0, 1]
    former = weights(poisoned)
    for step in range(8):
        now = weights(local.directory.students / f"step-{step + 1}")
        assert same(former, now) == (skipped[step] == 1)
        assert all(tensor.isfinite().all() for tensor in now.values())
        former = now


@pytest.mark.fault(24)
def test_too_many_of_them_in_a_row_end_the_run(local: Runs, poisoned: Path) -> None:
    data = pairs(local.folder / "pairs.jsonl", 40)
    fixed = ("objective.student_fraction=0", "learner.max_nonfinite_steps=2")
    said = local.ends(70, f"student.model={poisoned}", f"data.path={data}", *fixed).said
    assert "loss or gradient was not finite in 2 steps in a row" in said
    assert [local.steps[step]["skipped"] for step in local.steps] == [1]
    assert not local.directory.final.exists()


@pytest.mark.fault(24)
def test_weights_that_are_not_finite_go_nowhere(local: Runs) -> None:
    said = local.ends(70, "learner.learning_rate=1e39", "checkpoint.save_steps=0", "learner.save_steps=1").said
    assert "is not finite after step 1, so it is not published" in said
    assert not local.directory.final.exists()
    assert not local.directory.students.exists()
    assert local.directory.last_checkpoint is None
    assert local.directory.diagnosis.exists()


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    """A student that ends every answer with its first token: its layers add nothing, one channel is positive
    everywhere, and the head reads it for `</s>`."""
    path = tiny.save_causal(tmp_path / "silent", seed=1, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
        model.get_input_embeddings().weight[:, 0] = 30
        model.get_output_embeddings().weight[tiny.STOP] = 0
        model.get_output_embeddings().weight[tiny.STOP, 0] = 10
    model.save_pretrained(path)
    return path


@pytest.mark.fault(46)
def test_answers_and_pairs_of_an_end_token_alone(local: Runs, silent: Path) -> None:
    path = local.folder / "pairs.jsonl"
    rows = [{"prompt": f"w{3 + row} w9", "completion": "" if row % 2 else "w7 w8"} for row in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    local.ends(
        0, f"student.model={silent}", f"data.path={path}", "evaluation.enabled=true", "learner.learning_rate=1e-9"
    )
    assert all(math.isfinite(loss) for loss in local.losses)
    assert sum(step["sampled_tokens"] for step in local.steps.values()) == 8 * 2  # one token each
    assert all(step["skipped"] == 0 for step in local.steps.values())


@pytest.mark.fault(46)
def test_answers_that_are_cut_at_one_token(local: Runs) -> None:
    local.ends(0, "sampling.max_new_tokens=1", "evaluation.enabled=true")
    assert all(math.isfinite(loss) for loss in local.losses)
    assert all(step["trained_tokens"] == 4 for step in local.steps.values())
