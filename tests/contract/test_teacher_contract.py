"""What every teacher promises, asked of the fake, of transformers and of vLLM (a real engine)."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gkd_dist.interfaces import Teacher
from gkd_dist.targets import FullTargets, HiddenTargets
from gkd_dist.testing.fakes import FakeTeacher
from gkd_dist.types import ScoredTrajectory, Trajectory
from tests import tiny

SHAPES = [(5, 7), (1, 1), (9, 3), (2, 12)]


@dataclass
class Bench:
    teacher: Teacher
    runner: asyncio.Runner
    model: Path | None

    def score(self, trajectories: list[Trajectory]) -> list[ScoredTrajectory]:
        return tiny.scored(trajectories, self.runner.run(self.teacher.score(trajectories)))


def make_teacher(name: str, model: Path) -> Teacher:
    if name == "fake":
        return FakeTeacher()
    if name == "vllm":
        from gkd_dist.teachers.vllm_teacher import VllmTeacher

        return VllmTeacher(str(model), dtype="float32", max_model_len=128, engine_args={})
    from gkd_dist.teachers.hf_teacher import HfTeacher

    transport = name.removeprefix("hf-")
    return HfTeacher(model, dtype="float32", transport=transport, pad_token_id=tiny.PAD)


@pytest.fixture(scope="module", params=["fake", "hf-hidden", "hf-full", pytest.param("vllm", marks=pytest.mark.vllm)])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    model = tiny.save_causal(tmp_path_factory.mktemp("teacher"), seed=3)
    with asyncio.Runner() as runner:
        teacher = make_teacher(request.param, model)
        yield Bench(teacher, runner, None if request.param == "fake" else model)
        runner.run(teacher.close())


def test_every_completion_token_is_scored_in_order(bench: Bench) -> None:
    trajectories = tiny.trajectories(SHAPES)
    scored = bench.score(trajectories)
    assert [item.trajectory.sample_id for item in scored] == [item.sample_id for item in trajectories]
    assert [item.scores[0].targets.num_tokens for item in scored] == [completion for _, completion in SHAPES]


def test_a_score_does_not_depend_on_its_neighbours(bench: Bench) -> None:
    """To 1e-4: padding changes the order of summation in float32, no more."""
    trajectories = tiny.trajectories(SHAPES)
    together = bench.score(trajectories)[2].scores[0].targets
    alone = bench.score(trajectories[2:3])[0].scores[0].targets
    np.testing.assert_allclose(_numbers(together), _numbers(alone), atol=1e-4)


def test_the_same_trajectory_scores_the_same_twice(bench: Bench) -> None:
    trajectories = tiny.trajectories(SHAPES)
    first, second = bench.score(trajectories), bench.score(trajectories)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(_numbers(one.scores[0].targets), _numbers(two.scores[0].targets))


def test_the_rebuilt_distribution_is_the_models_own(bench: Bench) -> None:
    """KL below 1e-5 nats per token in float32, against a plain forward of the whole sequence."""
    if bench.model is None:
        pytest.skip("the fake has no model to compare with")
    model = AutoModelForCausalLM.from_pretrained(bench.model)
    for item in bench.score(tiny.trajectories(SHAPES)):
        expected = _log_probs(model, item.trajectory)
        rebuilt = _rebuilt(model, item.scores[0].targets)
        kl = (expected.exp() * (expected - rebuilt)).sum(-1)
        assert kl.abs().max().item() < 1e-5


def _numbers(targets: HiddenTargets | FullTargets) -> np.ndarray:
    return targets.hidden if isinstance(targets, HiddenTargets) else targets.log_probs


@torch.no_grad()
def _log_probs(model: torch.nn.Module, trajectory: Trajectory) -> torch.Tensor:
    tokens = np.concatenate([trajectory.prompt_ids, trajectory.completion_ids])
    logits = model(torch.from_numpy(tokens).long()[None]).logits[0]
    return torch.log_softmax(logits[trajectory.prompt_ids.size - 1 : -1].double(), dim=-1)


@torch.no_grad()
def _rebuilt(model: torch.nn.Module, targets: HiddenTargets | FullTargets) -> torch.Tensor:
    if isinstance(targets, FullTargets):
        return torch.from_numpy(targets.log_probs.copy()).double()
    logits = torch.from_numpy(targets.hidden.copy()) @ model.get_output_embeddings().weight.T
    return torch.log_softmax(logits.double(), dim=-1)
