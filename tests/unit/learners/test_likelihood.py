"""Maximum likelihood of fixed completions against torch's cross entropy; there is no teacher anywhere."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.divergences import ForwardKl, ReverseKl
from gkd_dist.learners.load import load_student
from gkd_dist.learners.objective import Likelihood
from gkd_dist.learners.step import LossSettings, accumulate_gradient, token_divergences
from gkd_dist.types import ScoredTrajectory, TrainBatch
from tests import tiny

SHAPES = [(5, 7), (1, 3), (9, 1), (4, 12)]
SETTINGS = LossSettings(
    objective=Likelihood(),
    reduction="sequence_mean",
    bf16=False,
    max_micro_batch_tokens=64,
    pad_token_id=tiny.PAD,
    num_ids=tiny.VOCABULARY,
)


@pytest.fixture(scope="module")
def student_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("student"), seed=1)


def pairs() -> list[ScoredTrajectory]:
    """Fixed pairs that nobody scored."""
    return [
        ScoredTrajectory(fixed_trajectory(item.sample_id, item.prompt_ids, item.completion_ids, 64), ())
        for item in tiny.trajectories(SHAPES)
    ]


def batch() -> TrainBatch:
    return TrainBatch(0, tuple(pairs()), len(SHAPES), sum(length for _, length in SHAPES))


def losses(model: torch.nn.Module) -> list[torch.Tensor]:
    """- log q of the completion tokens [L] of each pair, one sequence at a time, from the model's own logits."""
    found = []
    for item in pairs():
        prompt, completion = item.trajectory.prompt_ids, torch.from_numpy(item.trajectory.completion_ids).long()
        ids = torch.cat([torch.from_numpy(prompt).long(), completion])
        logits = model(ids[None]).logits[0, prompt.size - 1 : -1]
        found.append(cross_entropy(logits, completion, reduction="none"))
    return found


@pytest.mark.parametrize("reduction", ["sequence_mean", "token_mean"])
def test_loss_and_gradient_are_those_of_cross_entropy(student_path: Path, reduction: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(student_path, dtype=torch.float32)
    each = losses(model)
    expected = (
        torch.stack([item.mean() for item in each]).mean() if reduction == "sequence_mean" else torch.cat(each).mean()
    )
    expected.backward()
    student = load_student(student_path, gradient_checkpointing=False)
    loss = accumulate_gradient(student, batch(), replace(SETTINGS, reduction=reduction))
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    wanted = dict(model.named_parameters())
    for name, parameter in student.model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_micro_batch_tokens", [1, 16, 30])
def test_the_gradient_does_not_depend_on_the_split(student_path: Path, max_micro_batch_tokens: int) -> None:
    whole, split = (load_student(student_path, gradient_checkpointing=False) for _ in range(2))
    loss = accumulate_gradient(whole, batch(), replace(SETTINGS, max_micro_batch_tokens=10_000))
    parts = replace(SETTINGS, max_micro_batch_tokens=max_micro_batch_tokens)
    assert accumulate_gradient(split, batch(), parts) == pytest.approx(loss, rel=1e-5)
    for mine, other in zip(split.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_evaluation_knows_the_likelihood_and_nothing_of_a_teacher(student_path: Path) -> None:
    student = load_student(student_path, gradient_checkpointing=False)
    forward, reverse, nll = token_divergences(student, pairs(), [ForwardKl(), ReverseKl(), None], SETTINGS)
    assert math.isnan(forward) and math.isnan(reverse)
    model = AutoModelForCausalLM.from_pretrained(student_path, dtype=torch.float32)
    with torch.no_grad():
        assert nll == pytest.approx(float(np.sum([item.sum().item() for item in losses(model)])), rel=1e-5)
