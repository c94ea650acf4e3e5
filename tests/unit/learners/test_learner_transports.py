"""The learner over top-K and sampled targets, and under the sequence-level objective."""

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gkd_dist.config.learner import LearnerConfig
from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.divergences import ForwardKl, ReverseKl
from gkd_dist.errors import EngineError
from gkd_dist.learners.learner import GkdLearner
from gkd_dist.learners.load import load_student
from gkd_dist.learners.objective import Distillation, Objective
from gkd_dist.learners.sequence import SequenceReverseKl
from gkd_dist.learners.step import LossSettings, accumulate_gradient
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.targets import FullTargets, SampledTargets, TeacherTargets, TopKTargets
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.types import ScoredTrajectory, TrainBatch, Trajectory
from gkd_dist.weights.publisher import WeightPublisher
from tests import tiny

SHAPES = [(5, 7), (1, 3), (9, 1), (4, 12), (6, 6)]
RULES = TargetRules(tiny.VOCABULARY)


@pytest.fixture(scope="module")
def student_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("student"), seed=1)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Trajectory, np.ndarray]]:
    """Random trajectories of the student, each with the teacher's log-probs [L, V]."""
    path = tiny.save_causal(tmp_path_factory.mktemp("teacher"), seed=2, num_layers=3)
    teacher = HfTeacher(path, dtype="float32", transport="full", pad_token_id=tiny.PAD, num_ids=tiny.VOCABULARY)
    trajectories = tiny.trajectories(SHAPES)
    targets = asyncio.run(teacher.score(trajectories))
    return [(item, found.log_probs) for item, found in zip(trajectories, targets, strict=True)]


def targets(transport: str, log_probs: np.ndarray, ids: np.ndarray, k: int) -> TeacherTargets:
    if transport == "full":
        return FullTargets(log_probs)
    if transport == "sampled":
        return SampledTargets(log_probs[np.arange(len(ids)), ids])
    top = np.argsort(-log_probs, axis=1)[:, :k].astype(np.int32)
    return TopKTargets(top, np.take_along_axis(log_probs, top, 1))


def scored(full: list[tuple[Trajectory, np.ndarray]], transport: str, k: int = 5) -> list[ScoredTrajectory]:
    found = [targets(transport, log_probs, item.completion_ids, k) for item, log_probs in full]
    return tiny.scored([item for item, _ in full], found)


def make_batch(items: list[ScoredTrajectory]) -> TrainBatch:
    return TrainBatch(0, tuple(items), len(items), sum(item.trajectory.num_completion_tokens for item in items))


def make_settings(objective: Objective, max_micro_batch_tokens: int = 64) -> LossSettings:
    return LossSettings(objective, "sequence_mean", False, max_micro_batch_tokens, tiny.PAD, tiny.VOCABULARY)


def distillation(divergence: object = None, temperature: float = 1.0) -> Distillation:
    return Distillation(divergence or ReverseKl(), {"teacher": TeacherView(None, temperature)}, RULES)


def sequences() -> SequenceReverseKl:
    return SequenceReverseKl({"teacher": TeacherView(None, 1.0)}, RULES)


def make_learner(student_path: Path, objective: Objective) -> GkdLearner:
    return GkdLearner(
        load_student(student_path, gradient_checkpointing=False),
        source=student_path,
        config=LearnerConfig(bf16=False, max_steps=10),
        settings=make_settings(objective),
        publisher=WeightPublisher("epoch", 1 << 16, "float32"),
    )


def gradient_of(
    student_path: Path, items: list[ScoredTrajectory], settings: LossSettings
) -> tuple[float, dict[str, float], torch.Tensor]:
    """(loss, what was measured, gradient of one matrix)."""
    student, quantities = load_student(student_path, gradient_checkpointing=False), {}
    loss = accumulate_gradient(student, make_batch(items), settings, quantities)
    return loss, quantities, dict(student.named_parameters())["model.layers.0.mlp.up_proj.weight"].grad


@pytest.mark.parametrize(("transport", "objective"), [
    ("topk", distillation()), ("sampled", distillation()), ("full", sequences()), ("topk", sequences()),
    ("sampled", sequences()),
])  # fmt: skip
def test_any_split_gives_one_loss_one_gradient_and_one_report(
    student_path: Path, full: list, transport: str, objective: Objective
) -> None:
    """To 1e-5 of the largest entry: float32 sums in another order."""
    items = scored(full, transport)

    def split(max_tokens: int) -> tuple[float, dict[str, float], torch.Tensor]:
        settings = replace(make_settings(objective, max_tokens), behaviour_temperature=1.0)
        return gradient_of(student_path, items, settings)

    whole = split(10_000)
    assert whole[1]["behaviour_gap_max_nats"] > 0
    for max_tokens in (1, 24):
        loss, quantities, gradient = split(max_tokens)
        assert loss == pytest.approx(whole[0], rel=1e-5)
        assert quantities == pytest.approx(whole[1], rel=1e-6)
        torch.testing.assert_close(gradient, whole[2], rtol=0, atol=1e-5 * whole[2].abs().max().item())


def test_the_report_tells_the_teachers_mass_as_a_mean_over_tokens(student_path: Path, full: list) -> None:
    masses = np.concatenate([np.sort(np.exp(log_probs), axis=1)[:, -5:].sum(1) for _, log_probs in full])
    report = asyncio.run(make_learner(student_path, distillation()).train(make_batch(scored(full, "topk"))))
    assert report.quantities == {"teacher_mass": pytest.approx(masses.mean(), abs=1e-6)}
    assert 0.1 < masses.mean() < 0.99
    report = asyncio.run(make_learner(student_path, distillation()).train(make_batch(scored(full, "full"))))
    assert report.quantities == {}


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_all_ids_as_a_set_are_the_full_distribution(student_path: Path, full: list, temperature: float) -> None:
    found = [
        gradient_of(
            student_path,
            scored(full, transport, k=tiny.VOCABULARY),
            make_settings(distillation(ForwardKl(), temperature)),
        )
        for transport in ("full", "topk")
    ]
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][2], found[0][2], rtol=0, atol=1e-5 * found[0][2].abs().max().item())


def test_the_reported_loss_of_sequences_is_the_divergence_of_their_tokens(student_path: Path, full: list) -> None:
    items = scored(full, "full")
    single = gradient_of(student_path, items, make_settings(distillation()))
    both = gradient_of(student_path, items, make_settings(sequences()))
    assert both[0] == pytest.approx(single[0], rel=1e-6)
    assert (both[2] - single[2]).abs().max() > 0.1 * single[2].abs().max()


def test_evaluation_under_a_top_k_teacher_is_a_lower_bound(student_path: Path, full: list) -> None:
    reports = {
        transport: asyncio.run(make_learner(student_path, distillation()).evaluate(make_batch(scored(full, transport))))
        for transport in ("full", "topk")
    }
    for kind in ("forward_kl", "reverse_kl", "objective"):
        assert 0 < getattr(reports["topk"], kind) < getattr(reports["full"], kind)


@pytest.mark.parametrize("objective", [distillation(), sequences()])
def test_evaluation_under_a_sampled_teacher_knows_the_reverse_kl_alone(
    student_path: Path, full: list, objective: Objective
) -> None:
    items = scored(full, "sampled")
    learner = make_learner(student_path, objective)
    report = asyncio.run(learner.evaluate(make_batch(items)))
    assert math.isnan(report.forward_kl)
    assert math.isfinite(report.reverse_kl)
    assert report.objective == report.reverse_kl

    prompt = tiny.prompts([4])[0]
    pair = fixed_trajectory(prompt.sample_id, prompt.token_ids, np.asarray([5, 6, tiny.STOP], np.int32), 8)
    fixed = tiny.scored([pair], [SampledTargets(np.zeros(3, np.float32))])
    for items_with_pairs in (fixed, items + fixed, fixed + items):
        report = asyncio.run(learner.evaluate(make_batch(items_with_pairs)))
        assert all(math.isnan(nats) for nats in (report.forward_kl, report.reverse_kl, report.objective))
    with pytest.raises(EngineError, match="fixed pairs"):
        asyncio.run(learner.train(make_batch(fixed)))


@pytest.mark.parametrize("objective", [distillation(), sequences()])
def test_a_temperature_cannot_be_given_to_sampled_log_probs(
    student_path: Path, full: list, objective: Objective
) -> None:
    hot = type(objective)(**{**vars(objective), "teachers": {"teacher": TeacherView(None, 0.5)}})
    with pytest.raises(EngineError, match=r"temperature 1.*0\.5"):
        asyncio.run(make_learner(student_path, hot).train(make_batch(scored(full, "sampled"))))


def test_top_k_targets_that_cannot_be_used_are_refused_by_cause(student_path: Path, full: list) -> None:
    uneven = [*scored(full[:2], "topk"), *scored(full[2:], "topk", k=6)]
    learner = make_learner(student_path, distillation())
    with pytest.raises(EngineError, match="top-K targets that cannot be used"):
        asyncio.run(learner.train(make_batch(uneven)))
    hot = make_learner(student_path, distillation(temperature=2.0))
    with pytest.raises(EngineError, match=r"\(0, 1\].*2\.0"):
        asyncio.run(hot.train(make_batch(scored(full, "topk"))))
