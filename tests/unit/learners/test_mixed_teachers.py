"""Several teachers in the learner: routed and mixed, against a brute-force loss through the models' own logits."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gkd_dist.divergences import ForwardKl, MixtureKind, ReverseKl
from gkd_dist.errors import EngineError
from gkd_dist.learners.load import load_student
from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.objective import Distillation
from gkd_dist.learners.sequence import SequenceReverseKl
from gkd_dist.learners.step import LossSettings, accumulate_gradient, token_divergences
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.targets import SampledTargets, TopKTargets
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.teachers.readout import load_readout
from gkd_dist.types import ScoredTrajectory, TeacherScore, TrainBatch
from tests import tiny

SHAPES = [(5, 7), (1, 3), (9, 1), (4, 12), (6, 6)]
NAMES = ("first", "second")
WEIGHTS, TEMPERATURES, TRANSPORTS = (3.0, 1.0), (0.5, 1.0), ("hidden", "full")


@pytest.fixture(scope="module")
def student_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("student"), seed=1)


@pytest.fixture(scope="module")
def teacher_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("teachers")
    return [tiny.save_causal(folder / name, seed=seed, num_layers=seed) for seed, name in enumerate(NAMES, start=2)]


def scores_of(path: Path, name: str, transport: str) -> list[TeacherScore]:
    """What one teacher says about each of the trajectories."""
    teacher = HfTeacher(path, dtype="float32", transport=transport, pad_token_id=tiny.PAD, num_ids=tiny.VOCABULARY)
    targets = asyncio.run(teacher.score(tiny.trajectories(SHAPES)))
    return [TeacherScore(name, each) for each in targets]


def scored_by_all(paths: list[Path]) -> list[ScoredTrajectory]:
    columns = [scores_of(*each) for each in zip(paths, NAMES, TRANSPORTS, strict=True)]
    pairs = zip(tiny.trajectories(SHAPES), zip(*columns, strict=True), strict=True)
    return [ScoredTrajectory(trajectory, scores) for trajectory, scores in pairs]


def routed(paths: list[Path]) -> list[ScoredTrajectory]:
    """Trajectories with an even index go to the first teacher, the others to the second."""
    everything = scored_by_all(paths)
    return [ScoredTrajectory(item.trajectory, (item.scores[i % 2],)) for i, item in enumerate(everything)]


def settings_of(paths: list[Path], mixture: MixtureKind | None, max_micro_batch_tokens: int = 64) -> LossSettings:
    views = {
        name: TeacherView(load_readout(path, dtype="float32", num_ids=tiny.VOCABULARY), temperature, weight)
        for name, path, temperature, weight in zip(NAMES, paths, TEMPERATURES, WEIGHTS, strict=True)
    }
    return LossSettings(
        objective=Distillation(ForwardKl(), views, TargetRules(tiny.VOCABULARY, mixture=mixture)),
        reduction="sequence_mean",
        bf16=False,
        max_micro_batch_tokens=max_micro_batch_tokens,
        pad_token_id=tiny.PAD,
        num_ids=tiny.VOCABULARY,
    )


def make_batch(scored: list[ScoredTrajectory]) -> TrainBatch:
    return TrainBatch(0, tuple(scored), len(scored), sum(item.trajectory.num_completion_tokens for item in scored))


def gradients(student: StudentModel) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in student.named_parameters()}


def trained(
    path: Path, scored: list[ScoredTrajectory], settings: LossSettings
) -> tuple[float, dict[str, torch.Tensor]]:
    student = load_student(path, gradient_checkpointing=False)
    loss = accumulate_gradient(student, make_batch(scored), settings)
    return loss, gradients(student)


def logits_of(model: torch.nn.Module, index: int) -> torch.Tensor:
    """[L, V] at the positions that predict the completion of one trajectory."""
    trajectory = tiny.trajectories(SHAPES)[index]
    ids = torch.cat([torch.from_numpy(trajectory.prompt_ids), torch.from_numpy(trajectory.completion_ids)]).long()
    return model(ids[None]).logits[0, trajectory.prompt_ids.size - 1 : -1]


def brute_force(
    student_path: Path, teacher_paths: list[Path], log_p_of: Callable[[int, list[torch.Tensor]], torch.Tensor]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Forward KL by eq. 2 of the paper, one sequence at a time.

    Args:
        log_p_of: (index of the trajectory, log-probs of each teacher at its temperature) -> log-probs to learn from.
    """
    student = AutoModelForCausalLM.from_pretrained(student_path)
    teachers = [AutoModelForCausalLM.from_pretrained(path) for path in teacher_paths]
    losses = []
    for index in range(len(SHAPES)):
        with torch.no_grad():
            each = [
                torch.log_softmax(logits_of(teacher, index) / temperature, dim=-1)
                for teacher, temperature in zip(teachers, TEMPERATURES, strict=True)
            ]
            log_p = log_p_of(index, each)
        log_q = torch.log_softmax(logits_of(student, index), dim=-1)
        losses.append((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in student.named_parameters()}


def arithmetic(_: int, each: list[torch.Tensor]) -> torch.Tensor:
    return (0.75 * each[0].exp() + 0.25 * each[1].exp()).log()


def geometric(_: int, each: list[torch.Tensor]) -> torch.Tensor:
    return torch.log_softmax(0.75 * each[0] + 0.25 * each[1], dim=-1)


def route(index: int, each: list[torch.Tensor]) -> torch.Tensor:
    return each[index % 2]


@pytest.mark.parametrize("max_micro_batch_tokens", [1, 24, 10_000])
@pytest.mark.parametrize(("mixture", "log_p_of"), [("arithmetic", arithmetic), ("geometric", geometric), (None, route)])
def test_loss_and_gradient_are_those_of_the_definition_for_any_split(
    student_path: Path,
    teacher_paths: list[Path],
    mixture: MixtureKind | None,
    log_p_of: Callable[[int, list[torch.Tensor]], torch.Tensor],
    max_micro_batch_tokens: int,
) -> None:
    """A hidden-state teacher and one of full log-probs, at temperatures of their own. To 1e-4 relative, as for one."""
    scored = scored_by_all(teacher_paths) if mixture else routed(teacher_paths)
    settings = settings_of(teacher_paths, mixture, max_micro_batch_tokens)
    loss, ours = trained(student_path, scored, settings)
    expected, theirs = brute_force(student_path, teacher_paths, log_p_of)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in theirs.items():
        scale = gradient.abs().max()
        torch.testing.assert_close(ours[name] / scale, gradient / scale, atol=1e-4, rtol=0)


def test_held_out_divergences_are_to_the_mixture(student_path: Path, teacher_paths: list[Path]) -> None:
    """The token mean of the training loss's own divergence, and another one."""
    student = load_student(student_path, gradient_checkpointing=False)
    scored, settings = scored_by_all(teacher_paths), settings_of(teacher_paths, "geometric")
    forward, reverse = token_divergences(student, scored, [None, ReverseKl()], settings)
    plain = AutoModelForCausalLM.from_pretrained(student_path)
    teachers = [AutoModelForCausalLM.from_pretrained(path) for path in teacher_paths]
    expected = [0.0, 0.0]
    with torch.no_grad():
        for index in range(len(SHAPES)):
            log_q = torch.log_softmax(logits_of(plain, index), dim=-1)
            each = [
                torch.log_softmax(logits_of(teacher, index) / temperature, dim=-1)
                for teacher, temperature in zip(teachers, TEMPERATURES, strict=True)
            ]
            log_p = geometric(index, each)
            expected[0] += (log_p.exp() * (log_p - log_q)).sum().item()
            expected[1] += (log_q.exp() * (log_q - log_p)).sum().item()
    assert [forward, reverse] == pytest.approx(expected, rel=1e-5)


def test_a_routed_batch_is_the_sum_of_what_each_teacher_alone_would_give(
    student_path: Path, teacher_paths: list[Path]
) -> None:
    """Because the denominators are those of the whole batch. To 1e-5 of the largest entry: another order of sums."""
    scored, settings = routed(teacher_paths), settings_of(teacher_paths, None)
    loss, together = trained(student_path, scored, settings)
    whole = make_batch(scored)
    student = load_student(student_path, gradient_checkpointing=False)
    parts = 0.0
    for name in NAMES:
        own = tuple(item for item in scored if item.scores[0].teacher == name)
        parts += accumulate_gradient(student, TrainBatch(0, own, whole.num_sequences, whole.num_tokens), settings)
    assert loss == pytest.approx(parts, rel=1e-6)
    for name, gradient in gradients(student).items():
        scale = gradient.abs().max()
        torch.testing.assert_close(together[name] / scale, gradient / scale, atol=1e-5, rtol=0)


def test_scores_that_do_not_fit_the_rules_are_refused(student_path: Path, teacher_paths: list[Path]) -> None:
    student = load_student(student_path, gradient_checkpointing=False)
    scored = scored_by_all(teacher_paths)

    def refuses(items: list[ScoredTrajectory], mixture: MixtureKind | None, words: str) -> None:
        with pytest.raises(EngineError, match=words):
            accumulate_gradient(student, make_batch(items), settings_of(teacher_paths, mixture))

    refuses(scored, None, "the scores of one teacher are needed, got those of first, second")
    other = [TeacherScore("third", item.scores[0].targets) for item in scored]
    strangers = [ScoredTrajectory(item.trajectory, (score,)) for item, score in zip(scored, other, strict=True)]
    refuses(strangers, None, "the same known teachers everywhere, got third")
    sampled = [
        ScoredTrajectory(
            item.trajectory,
            (item.scores[0], TeacherScore("second", SampledTargets(item.trajectory.behaviour_log_probs))),
        )
        for item in scored
    ]
    refuses(sampled, "geometric", "SampledTargets hold no logits over all ids")


@pytest.mark.parametrize("mixture", ["arithmetic", "geometric"])
def test_the_sequence_kl_to_a_teacher_mixed_with_itself_is_the_one_to_that_teacher(
    student_path: Path, teacher_paths: list[Path], mixture: MixtureKind
) -> None:
    """To 1e-4 of the largest entry: the log-softmax is taken on one side or the other, in float32."""
    path = teacher_paths[0]
    both = scored_by_all([path, path])
    single = [ScoredTrajectory(item.trajectory, item.scores[:1]) for item in both]
    view = TeacherView(load_readout(path, dtype="float32", num_ids=tiny.VOCABULARY), 0.5)
    results = []
    for scored, kind in ((single, None), (both, mixture)):
        objective = SequenceReverseKl(dict.fromkeys(NAMES, view), TargetRules(tiny.VOCABULARY, mixture=kind))
        results.append(trained(student_path, scored, replace(settings_of([path, path], kind), objective=objective)))
    (loss, gradient), (other_loss, other) = results
    assert other_loss == pytest.approx(loss, rel=1e-5)
    for name in gradient:
        scale = gradient[name].abs().max()
        torch.testing.assert_close(other[name] / scale, gradient[name] / scale, atol=1e-4, rtol=0)


def test_what_one_routed_teacher_measures_is_a_mean_over_its_own_tokens(
    student_path: Path, teacher_paths: list[Path]
) -> None:
    """The first teacher sends hidden states, the second its two most probable ids, with a mass of 0.75 everywhere."""
    items = routed(teacher_paths)
    for index, item in enumerate(items):
        if index % 2:
            num_tokens = item.trajectory.num_completion_tokens
            ids = np.tile(np.asarray([[5, 9]], np.int32), (num_tokens, 1))
            log_probs = np.log(np.tile(np.asarray([[0.5, 0.25]], np.float32), (num_tokens, 1)))
            items[index] = ScoredTrajectory(item.trajectory, (TeacherScore("second", TopKTargets(ids, log_probs)),))
    quantities: dict[str, float] = {}
    student = load_student(student_path, gradient_checkpointing=False)
    accumulate_gradient(student, make_batch(items), settings_of(teacher_paths, None), quantities)
    assert quantities == {"teacher_mass": pytest.approx(0.75, abs=1e-6)}
