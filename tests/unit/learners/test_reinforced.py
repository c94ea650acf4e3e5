"""RL + GKD: the policy gradient against enumeration, invariance to the split, and alpha = 1 bit for bit."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gkd_dist.divergences import LikelihoodTerm, ReverseKl, Term, chunked_loss
from gkd_dist.divergences.readout import Readout
from gkd_dist.errors import EngineError
from gkd_dist.learners.load import load_student
from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.objective import MicroBatch, Objective
from gkd_dist.learners.reinforced import Reinforced
from gkd_dist.learners.sequence import SequenceReverseKl
from gkd_dist.learners.step import accumulate_gradient, token_divergences
from gkd_dist.pipeline.baselines import LeaveOneOut
from gkd_dist.targets import SampledTargets, TopKTargets
from gkd_dist.types import (
    FinishReason,
    SampleId,
    ScoredTrajectory,
    Source,
    TeacherScore,
    TrainBatch,
    Trajectory,
    VersionRange,
)
from tests import tiny
from tests.reference import policy_gradient_reference as reference
from tests.unit.learners.test_learner import make_settings, score

NUM_IDS, MAX_TOKENS, HIDDEN = 3, 2, 4
ROWS_OF = {
    item: [reference.prefixes(NUM_IDS, MAX_TOKENS).index(item[:length]) for length in range(len(item))]
    for item in reference.sequences(NUM_IDS, MAX_TOKENS)
}


def reward(sequence: reference.Sequence) -> float:
    """Differs from sequence to sequence, and float32 holds it exactly."""
    return (sum((place + 1) * token for place, token in enumerate(sequence)) - 3 * len(sequence)) / 8


@dataclass(frozen=True)
class Likelihood:
    """The simplest inner objective: - sum of weights * log q."""

    def terms(self, batch: MicroBatch) -> list[Term]:
        ids = np.concatenate([item.trajectory.completion_ids for item in batch.scored]).astype(np.int64)
        return [LikelihoodTerm(torch.from_numpy(ids), batch.weights)]

    def measuring(self, divergence: object) -> Objective:
        return self


def judged(sequence: reference.Sequence, repeat_index: int = 0) -> ScoredTrajectory:
    ids = np.asarray(sequence, np.int32)
    trajectory = Trajectory(
        SampleId("test", 0, repeat_index),
        np.asarray([1], np.int32),
        ids,
        Source.STUDENT,
        FinishReason.LENGTH,
        behaviour_log_probs=np.zeros(ids.size, np.float32),
        versions=VersionRange(0, 0),
    )
    score = TeacherScore("teacher", SampledTargets(np.zeros(ids.size, np.float32)))
    return ScoredTrajectory(trajectory, (score,), reward(sequence))


@pytest.fixture
def policy() -> tuple[torch.Tensor, torch.Tensor]:
    """Table [num_prefixes, H] and head [V, H], float64."""
    torch.manual_seed(3)
    num_prefixes = len(reference.prefixes(NUM_IDS, MAX_TOKENS))
    table = torch.randn(num_prefixes, HIDDEN, dtype=torch.float64, requires_grad=True)
    return table, torch.randn(NUM_IDS, HIDDEN, dtype=torch.float64, requires_grad=True)


def gradient(
    policy: tuple[torch.Tensor, torch.Tensor],
    objective: Objective,
    group: Sequence[reference.Sequence],
    advantages: Sequence[float] | np.ndarray,
) -> list[torch.Tensor]:
    """Of the loss of one batch, with respect to table and head."""
    table, head = policy
    rows = [row for item in group for row in ROWS_OF[item]]
    readout = Readout(head)
    batch = MicroBatch(
        scored=[judged(item, index) for index, item in enumerate(group)],
        hidden=table[rows].detach(),
        readout=readout,
        weights=torch.full((len(rows),), 0.25),
        num_sequences=len(group),
        advantages=torch.as_tensor(np.asarray(advantages, np.float32)),
    )
    loss = chunked_loss(table[rows], readout, objective.terms(batch), chunk_tokens=2).loss
    return list(torch.autograd.grad(loss, policy))


def probability(policy: tuple[torch.Tensor, torch.Tensor], sequence: reference.Sequence) -> float:
    return reference.log_prob(*policy, ROWS_OF[sequence], sequence).exp().item()


def true_gradient(policy: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(reference.expected_reward(*policy, ROWS_OF, reward), policy))


@pytest.mark.parametrize("baseline", [0.0, 0.75])
def test_the_mean_gradient_over_all_answers_is_that_of_the_expected_reward(
    policy: tuple[torch.Tensor, torch.Tensor], baseline: float
) -> None:
    """With any baseline, in float64, plus alpha times that of the inner objective."""
    inner, alpha = Likelihood(), 0.25
    total = [torch.zeros_like(part) for part in policy]
    for sequence in ROWS_OF:
        share = probability(policy, sequence)
        parts = gradient(policy, Reinforced(inner, alpha), [sequence], [reward(sequence) - baseline])
        inner_parts = gradient(policy, inner, [sequence], [0.0])
        for sum_, part, inner_part in zip(total, parts, inner_parts, strict=True):
            sum_ += share * (part - alpha * inner_part)
    for found, true in zip(total, true_gradient(policy), strict=True):
        torch.testing.assert_close(found, -(1 - alpha) * true, rtol=1e-10, atol=1e-12)
        assert true.abs().max() > 0.01


def test_leave_one_out_is_unbiased(policy: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Over all pairs of answers to one prompt, with the divisor of the batch: pure reinforcement."""
    total = [torch.zeros_like(part) for part in policy]
    for pair in itertools.product(ROWS_OF, repeat=2):
        advantages = LeaveOneOut(2).advantages([judged(item, index) for index, item in enumerate(pair)])
        share = probability(policy, pair[0]) * probability(policy, pair[1])
        for sum_, part in zip(total, gradient(policy, Reinforced(Likelihood(), 0.0), pair, advantages), strict=True):
            sum_ += share * part
    for found, true in zip(total, true_gradient(policy), strict=True):
        torch.testing.assert_close(found, -true, rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def student_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("student"), seed=1)


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("teacher"), seed=2, num_layers=3)


ADVANTAGES = np.asarray([0.5, -0.25, 0.0, 1.5, -0.75], np.float32)


def make_batch(scored: list[ScoredTrajectory], advantages: np.ndarray | None) -> TrainBatch:
    num_tokens = sum(item.trajectory.num_completion_tokens for item in scored)
    return TrainBatch(0, tuple(scored), len(scored), num_tokens, advantages)


def gradients(student: StudentModel) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in student.model.named_parameters()}


def test_alpha_one_is_distillation_bit_for_bit(student_path: Path, teacher_path: Path) -> None:
    settings, scored = make_settings(teacher_path), score(teacher_path, "hidden")
    plain, reinforced = (load_student(student_path, gradient_checkpointing=False) for _ in range(2))
    loss = accumulate_gradient(plain, make_batch(scored, None), settings)
    settings = replace(settings, objective=Reinforced(settings.objective, 1.0))
    assert accumulate_gradient(reinforced, make_batch(scored, ADVANTAGES), settings) == loss
    for name, found in gradients(reinforced).items():
        assert torch.equal(found, gradients(plain)[name]), name


def test_the_gradient_is_that_of_the_formula(student_path: Path, teacher_path: Path) -> None:
    """Against the model's own logits, one sequence at a time, without padding; float32 sums in another order."""
    alpha = 0.25
    settings, scored = make_settings(teacher_path), score(teacher_path, "hidden")
    student = load_student(student_path, gradient_checkpointing=False)
    accumulate_gradient(
        student, make_batch(scored, ADVANTAGES), replace(settings, objective=Reinforced(settings.objective, alpha))
    )
    expected = load_student(student_path, gradient_checkpointing=False)
    accumulate_gradient(expected, make_batch(scored, None), settings)
    for parameter in expected.model.parameters():
        parameter.grad *= alpha
    surrogate = torch.zeros(())
    for item, advantage in zip(scored, ADVANTAGES, strict=True):
        prompt, completion = item.trajectory.prompt_ids, item.trajectory.completion_ids
        ids = torch.from_numpy(np.concatenate([prompt, completion])).long()
        log_q = torch.log_softmax(expected.model(ids[None]).logits[0, :-1], dim=-1)
        taken = log_q[torch.arange(prompt.size - 1, ids.numel() - 1), ids[prompt.size :]]
        surrogate = surrogate - (1 - alpha) / len(scored) * float(advantage) * taken.sum()
    surrogate.backward()
    for name, found in gradients(student).items():
        torch.testing.assert_close(found, gradients(expected)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_micro_batch_tokens", [1, 24, 40])
def test_the_gradient_does_not_depend_on_the_split(
    student_path: Path, teacher_path: Path, max_micro_batch_tokens: int
) -> None:
    settings, batch = make_settings(teacher_path), make_batch(score(teacher_path, "hidden"), ADVANTAGES)
    settings = replace(settings, objective=Reinforced(settings.objective, 0.5), max_micro_batch_tokens=10_000)
    whole, split = (load_student(student_path, gradient_checkpointing=False) for _ in range(2))
    loss = accumulate_gradient(whole, batch, settings)
    split_settings = replace(settings, max_micro_batch_tokens=max_micro_batch_tokens)
    assert accumulate_gradient(split, batch, split_settings) == pytest.approx(loss, rel=1e-5)
    for name, found in gradients(split).items():
        torch.testing.assert_close(found, gradients(whole)[name], rtol=1e-4, atol=1e-5)


def test_the_loss_and_the_evaluation_are_the_divergence(student_path: Path, teacher_path: Path) -> None:
    settings, scored = make_settings(teacher_path), score(teacher_path, "hidden")
    reinforced = replace(settings, objective=Reinforced(settings.objective, 0.25))
    student = load_student(student_path, gradient_checkpointing=False)
    losses = [
        accumulate_gradient(student, make_batch(scored, advantages), each)
        for each, advantages in ((settings, None), (reinforced, ADVANTAGES))
    ]
    assert losses[0] == losses[1]
    kinds = [ReverseKl(), None]
    assert token_divergences(student, scored, kinds, reinforced) == token_divergences(student, scored, kinds, settings)


def test_answers_as_good_as_expected_cost_no_second_term(policy: tuple[torch.Tensor, torch.Tensor]) -> None:
    table, head = policy
    group = [judged((1, 0)), judged((0,), 1)]
    batch = MicroBatch(group, table[:3].detach(), Readout(head), torch.ones(3), 2, torch.zeros(2))
    (term,) = Reinforced(Likelihood(), 0.25).terms(batch)
    assert term.weights.tolist() == [0.25] * 3
    assert len(Reinforced(Likelihood(), 1.0).terms(replace(batch, advantages=None))) == 1
    assert len(Reinforced(Likelihood(), 0.25).terms(replace(batch, advantages=torch.tensor([0.5, 0.0])))) == 2


@pytest.mark.parametrize("transport", ["hidden", "full", "topk", "sampled"])
@pytest.mark.parametrize("sequence_level", [False, True])
def test_any_objective_over_any_transport_is_reinforced_alike(
    student_path: Path, teacher_path: Path, transport: str, sequence_level: bool
) -> None:
    """Gradient(alpha) = alpha * gradient(1) + (1 - alpha) * gradient(0), to float32 sums in another order."""
    settings = make_settings(teacher_path, divergence=ReverseKl())
    inner = settings.objective
    if sequence_level:
        inner = SequenceReverseKl(inner.teachers, inner.rules)
    batch = make_batch(in_transport(teacher_path, transport), ADVANTAGES)

    def gradient(objective: Objective) -> dict[str, torch.Tensor]:
        student = load_student(student_path, gradient_checkpointing=False)
        accumulate_gradient(student, batch, replace(settings, objective=objective))
        return gradients(student)

    mixed, plain, reward = (gradient(each) for each in (Reinforced(inner, 0.25), inner, Reinforced(inner, 0.0)))
    for name, found in mixed.items():
        torch.testing.assert_close(found, 0.25 * plain[name] + 0.75 * reward[name], rtol=1e-4, atol=1e-5)
        assert plain[name].abs().max() > 1e-4 and reward[name].abs().max() > 1e-4


def in_transport(teacher_path: Path, transport: str) -> list[ScoredTrajectory]:
    """The random trajectories with the teacher's targets in another form."""
    if transport in ("hidden", "full"):
        return score(teacher_path, transport)
    scored = []
    for item in score(teacher_path, "full"):
        (found,) = item.scores
        log_probs = found.targets.log_probs
        targets = SampledTargets(log_probs[np.arange(len(log_probs)), item.trajectory.completion_ids])
        if transport == "topk":
            top = np.argsort(-log_probs, axis=1)[:, :5].astype(np.int32)
            targets = TopKTargets(top, np.take_along_axis(log_probs, top, 1))
        scored.append(replace(item, scores=(replace(found, targets=targets),)))
    return scored


def test_a_batch_that_was_not_judged_is_refused(student_path: Path, teacher_path: Path) -> None:
    settings = make_settings(teacher_path)
    student = load_student(student_path, gradient_checkpointing=False)
    with pytest.raises(EngineError, match="were not judged"):
        accumulate_gradient(
            student,
            make_batch(score(teacher_path, "hidden"), None),
            replace(settings, objective=Reinforced(settings.objective, 0.5)),
        )
