"""The learner against a brute-force loss: values, gradients, invariance, and what leaves it."""

import asyncio
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gkd_dist.config.learner import LearnerConfig
from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.divergences import ForwardKl, make_divergence
from gkd_dist.errors import EngineError, ModelError
from gkd_dist.learners.learner import GkdLearner
from gkd_dist.learners.load import load_student
from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.objective import Distillation
from gkd_dist.learners.step import LossSettings, accumulate_gradient, token_divergences
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.targets import FullTargets, HiddenTargets
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.teachers.readout import load_readout
from gkd_dist.types import ScoredTrajectory, TeacherScore, TrainBatch
from gkd_dist.weights.publisher import WeightPublisher
from gkd_dist.weights.tensors import fill_bucket, read_tensors
from tests import tiny

SHAPES = [(5, 7), (1, 3), (9, 1), (4, 12), (6, 6)]


@pytest.fixture(scope="module")
def student_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("student"), seed=1)


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("teacher"), seed=2, num_layers=3)


def score(teacher_path: Path, transport: str, *, num_ids: int = tiny.VOCABULARY) -> list[ScoredTrajectory]:
    """Random trajectories with completions below `num_ids`, scored over the whole vocabulary."""
    trajectories = [
        replace(item, completion_ids=item.completion_ids % np.int32(num_ids)) for item in tiny.trajectories(SHAPES)
    ]
    teacher = HfTeacher(
        teacher_path,
        dtype="float32",
        transport=transport,
        pad_token_id=tiny.PAD,
        num_ids=tiny.VOCABULARY,
    )
    return tiny.scored(trajectories, asyncio.run(teacher.score(trajectories)))


def make_batch(scored: list[ScoredTrajectory], step: int = 0) -> TrainBatch:
    num_tokens = sum(item.trajectory.num_completion_tokens for item in scored)
    return TrainBatch(step, tuple(scored), len(scored), num_tokens)


def make_settings(teacher_path: Path, **changes: object) -> LossSettings:
    """Settings of plain distillation from one teacher, with some of them changed."""
    view = {
        "readout": changes.pop("teacher_readout", load_readout(teacher_path, dtype="float32", num_ids=tiny.VOCABULARY)),
        "temperature": changes.pop("teacher_temperature", 1.0),
    }
    defaults = {
        "objective": Distillation(
            divergence=changes.pop("divergence", ForwardKl()),
            teachers={"teacher": TeacherView(**view)},
            rules=TargetRules(changes.get("num_ids", tiny.VOCABULARY), bool(changes.get("bf16"))),
        ),
        "reduction": "sequence_mean",
        "bf16": False,
        "max_micro_batch_tokens": 64,
        "pad_token_id": tiny.PAD,
        "num_ids": tiny.VOCABULARY,
    }
    return LossSettings(**(defaults | changes))


def make_learner(student_path: Path, teacher_path: Path, **config: object) -> GkdLearner:
    return GkdLearner(
        load_student(student_path, gradient_checkpointing=False),
        source=student_path,
        config=LearnerConfig(**({"bf16": False, "max_steps": 10} | config)),
        settings=make_settings(teacher_path),
        publisher=WeightPublisher("epoch", 1 << 16, "float32"),
    )


def brute_force_loss(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    scored: list[ScoredTrajectory],
    *,
    reduction: str,
    temperature: float,
    num_ids: int,
) -> torch.Tensor:
    """Eq. 2 of the paper, one sequence at a time, without padding, through the models' own logits."""
    losses, tokens = [], []
    for item in scored:
        prompt, completion = item.trajectory.prompt_ids, item.trajectory.completion_ids
        ids = torch.from_numpy(np.concatenate([prompt, completion])).long()[None]
        span = slice(prompt.size - 1, prompt.size + completion.size - 1)
        with torch.no_grad():
            log_p = torch.log_softmax(teacher(ids).logits[0, span, :num_ids] / temperature, dim=-1)
        log_q = torch.log_softmax(student(ids).logits[0, span, :num_ids], dim=-1)
        losses.append((log_p.exp() * (log_p - log_q)).sum(-1))
        tokens.append(completion.size)
    if reduction == "token_mean":
        return torch.cat(losses).sum() / sum(tokens)
    return torch.stack([loss.mean() for loss in losses]).mean()


def gradients(student: StudentModel) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in student.named_parameters()}


@pytest.mark.parametrize("transport", ["hidden", "full"])
@pytest.mark.parametrize("reduction", ["sequence_mean", "token_mean"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_loss_and_gradient_are_those_of_the_paper(
    student_path: Path, teacher_path: Path, transport: str, reduction: str, temperature: float
) -> None:
    """To 1e-4 relative: float32, with the tied embedding's gradient summed in another order."""
    scored = score(teacher_path, transport)
    student = load_student(student_path, gradient_checkpointing=False)
    settings = make_settings(teacher_path, reduction=reduction, teacher_temperature=temperature)
    loss = accumulate_gradient(student, make_batch(scored), settings)
    ours = gradients(student)

    plain = AutoModelForCausalLM.from_pretrained(student_path)
    teacher = AutoModelForCausalLM.from_pretrained(teacher_path)
    expected = brute_force_loss(
        plain, teacher, scored, reduction=reduction, temperature=temperature, num_ids=tiny.VOCABULARY
    )
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in plain.named_parameters():
        scale = parameter.grad.abs().max()
        torch.testing.assert_close(ours[name] / scale, parameter.grad / scale, atol=1e-4, rtol=0)


@pytest.mark.fault(44)
def test_only_shared_ids_count(student_path: Path, teacher_path: Path) -> None:
    """A vocabulary padded beyond the real ids is cut before the softmax, on both sides."""
    num_ids = tiny.VOCABULARY - 20
    scored = score(teacher_path, "hidden", num_ids=num_ids)
    assert max(item.trajectory.completion_ids.max() for item in scored) > num_ids / 2
    readout = load_readout(teacher_path, dtype="float32", num_ids=num_ids)
    settings = make_settings(teacher_path, num_ids=num_ids, teacher_readout=readout)
    loss = accumulate_gradient(load_student(student_path, gradient_checkpointing=False), make_batch(scored), settings)
    expected = brute_force_loss(
        AutoModelForCausalLM.from_pretrained(student_path),
        AutoModelForCausalLM.from_pretrained(teacher_path),
        scored,
        reduction="sequence_mean",
        temperature=1.0,
        num_ids=num_ids,
    )
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_completion_beyond_the_shared_ids_is_refused(student_path: Path, teacher_path: Path) -> None:
    """The prompt may hold such ids, a completion not: nothing could teach them."""
    num_ids = tiny.VOCABULARY - 20
    scored = score(teacher_path, "hidden", num_ids=num_ids)
    beyond = scored[2].trajectory.completion_ids.copy()
    beyond[0] = num_ids
    scored[2] = replace(scored[2], trajectory=replace(scored[2].trajectory, completion_ids=beyond))
    student, settings = load_student(student_path, gradient_checkpointing=False), make_settings(teacher_path)
    accumulate_gradient(student, make_batch(scored), settings)
    cut = replace(settings, num_ids=num_ids)
    for use in (
        lambda: accumulate_gradient(student, make_batch(scored), cut),
        lambda: token_divergences(student, scored, [ForwardKl()], cut),
    ):
        with pytest.raises(EngineError, match=r"test/2/0 contains id 108.*below 108"):
            use()


def test_any_split_into_micro_batches_gives_one_gradient(student_path: Path, teacher_path: Path) -> None:
    """To 1e-5 of the largest entry: float32 sums in another order."""
    scored = score(teacher_path, "hidden")
    results = []
    for max_tokens in (1, 24, 10_000):
        student = load_student(student_path, gradient_checkpointing=False)
        settings = make_settings(teacher_path, max_micro_batch_tokens=max_tokens)
        results.append((accumulate_gradient(student, make_batch(scored), settings), gradients(student)))
    for loss, other in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-6)
        for name, gradient in results[0][1].items():
            scale = gradient.abs().max()
            torch.testing.assert_close(other[name] / scale, gradient / scale, atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_no_gradient(student_path: Path, teacher_path: Path) -> None:
    scored = score(teacher_path, "hidden")
    found = []
    for checkpointing in (False, True):
        student = load_student(student_path, gradient_checkpointing=checkpointing)
        accumulate_gradient(student, make_batch(scored), make_settings(teacher_path))
        found.append(gradients(student))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)


def test_bf16_stays_near_float32(student_path: Path, teacher_path: Path) -> None:
    """Within 5 %: bfloat16 has 8 bits of mantissa, in every layer."""
    scored = score(teacher_path, "hidden")
    losses = [
        accumulate_gradient(
            load_student(student_path, gradient_checkpointing=False),
            make_batch(scored),
            make_settings(teacher_path, bf16=bf16),
        )
        for bf16 in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_training_lowers_the_divergence_and_counts_versions(student_path: Path, teacher_path: Path) -> None:
    learner = make_learner(student_path, teacher_path, learning_rate=3e-3)
    scored = score(teacher_path, "hidden")

    async def scenario() -> tuple[float, float, list[int]]:
        before = await learner.evaluate(make_batch(scored))
        versions = [(await learner.train(make_batch(scored, step))).policy_version for step in range(8)]
        after = await learner.evaluate(make_batch(scored, 8))
        return before.forward_kl, after.forward_kl, versions

    before, after, versions = asyncio.run(scenario())
    assert versions == list(range(1, 9))
    assert after < 0.5 * before


def test_a_report_says_what_its_step_was_spent_on(student_path: Path, teacher_path: Path) -> None:
    """Of all micro-batches together; never more than it took."""
    learner = make_learner(student_path, teacher_path)
    began = time.perf_counter()
    report = asyncio.run(learner.train(make_batch(score(teacher_path, "hidden"))))
    assert list(report.seconds) == ["forward", "head", "backward", "optimizer"]
    assert all(seconds > 0 for seconds in report.seconds.values())
    assert sum(report.seconds.values()) < time.perf_counter() - began


def test_evaluation_equals_the_loss_under_the_token_mean(student_path: Path, teacher_path: Path) -> None:
    scored = score(teacher_path, "hidden")
    report = asyncio.run(make_learner(student_path, teacher_path).evaluate(make_batch(scored)))
    expected = brute_force_loss(
        AutoModelForCausalLM.from_pretrained(student_path),
        AutoModelForCausalLM.from_pretrained(teacher_path),
        scored,
        reduction="token_mean",
        temperature=1.0,
        num_ids=tiny.VOCABULARY,
    )
    assert report.forward_kl == pytest.approx(expected.item(), rel=1e-5)
    assert report.objective == report.forward_kl
    assert report.reverse_kl > 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_evaluation_runs_in_evaluation_mode_and_training_in_its_own(
    student_path: Path, teacher_path: Path, checkpointing: bool
) -> None:
    """Checkpointing works in training mode alone."""
    student, scored = load_student(student_path, gradient_checkpointing=checkpointing), score(teacher_path, "hidden")
    modes: list[bool] = []
    student.model.base_model.register_forward_pre_hook(lambda body, _: modes.append(body.training))
    settings = make_settings(teacher_path, max_micro_batch_tokens=10_000)
    token_divergences(student, scored, [ForwardKl()], settings)
    accumulate_gradient(student, make_batch(scored), settings)
    assert modes == [False, checkpointing]


def test_teacher_equal_to_student_leaves_nothing_to_learn(student_path: Path) -> None:
    """Null distillation: loss below 1e-6 nats per token."""
    learner = make_learner(student_path, student_path)
    report = asyncio.run(learner.train(make_batch(score(student_path, "hidden"))))
    assert abs(report.loss) < 1e-6
    assert report.grad_norm < 1e-3


def test_a_batch_for_another_step_is_refused(student_path: Path, teacher_path: Path) -> None:
    learner = make_learner(student_path, teacher_path)
    with pytest.raises(EngineError, match=r"step 0.*step 3"):
        asyncio.run(learner.train(make_batch(score(teacher_path, "hidden"), step=3)))


def test_a_step_that_is_not_finite_changes_no_weight_and_too_many_end_the_run(
    student_path: Path, teacher_path: Path
) -> None:
    scored = score(teacher_path, "hidden")
    poison = [
        ScoredTrajectory(
            item.trajectory,
            (TeacherScore("teacher", HiddenTargets(np.full_like(item.scores[0].targets.hidden, np.nan))),),
        )
        for item in scored
    ]
    learner = make_learner(student_path, teacher_path, max_nonfinite_steps=2)

    async def scenario() -> None:
        before = (await learner.publish()).manifest.digests
        report = await learner.train(make_batch(poison))
        assert (report.num_skipped, report.policy_version) == (1, 1)
        assert math.isnan(report.loss)
        assert (await learner.publish()).manifest.digests == before
        good = await learner.train(make_batch(scored, 1))
        assert good.num_skipped == 0
        assert (await learner.publish()).manifest.digests != before
        await learner.train(make_batch(poison, 2))
        with pytest.raises(EngineError, match="2 steps in a row"):
            await learner.train(make_batch(poison, 3))

    asyncio.run(scenario())


def test_a_publication_holds_the_parameters_under_their_checkpoint_names(
    student_path: Path, teacher_path: Path
) -> None:
    publication = asyncio.run(make_learner(student_path, teacher_path).publish())
    plain = dict(AutoModelForCausalLM.from_pretrained(student_path).named_parameters())
    tensors = dict(read_tensors(publication.buckets, publication.manifest.tensors))
    assert tensors.keys() == plain.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, plain[name].detach(), atol=0, rtol=0)
    assert publication.manifest.version == 0


def test_a_stream_is_the_publication_in_pieces_and_ends_where_a_step_comes_between(
    student_path: Path, teacher_path: Path
) -> None:
    scored = score(teacher_path, "hidden")
    learner = make_learner(student_path, teacher_path)

    async def scenario() -> None:
        publication = await learner.publish()
        *buckets, manifest = [part async for part in learner.stream()]
        assert manifest == publication.manifest
        assert len(buckets) == len(publication.buckets) > 1
        for own, other in zip(buckets, publication.buckets, strict=True):
            np.testing.assert_array_equal(own, other)
        stream = learner.stream()
        await anext(stream)
        await learner.train(make_batch(scored))
        with pytest.raises(EngineError, match="step 1 was trained while version 0 was published"):
            [part async for part in stream]  # what was filled before the step, and no manifest

    asyncio.run(scenario())


def test_the_next_bucket_of_a_stream_is_filled_while_one_is_taken_and_no_third(
    student_path: Path, teacher_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = asyncio.Queue[int]()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def noted(*arguments: Any) -> np.ndarray:
            bucket = fill_bucket(*arguments)
            loop.call_soon_threadsafe(filled.put_nowait, bucket.size)
            return bucket

        monkeypatch.setattr("gkd_dist.weights.publisher.fill_bucket", noted)
        learner = make_learner(student_path, teacher_path)
        stream = learner.stream()
        await anext(stream)
        await filled.get()
        async with asyncio.timeout(60):
            await filled.get()
        await learner.close()
        with pytest.raises(RuntimeError, match="closed"):  # a third was not asked for before
            [part async for part in stream]
        assert filled.empty()

    asyncio.run(scenario())


def test_a_saved_student_loads_unchanged_and_replaces_an_older_one(
    student_path: Path, teacher_path: Path, tmp_path: Path
) -> None:
    learner, target = make_learner(student_path, teacher_path), tmp_path / "runs" / "final"

    async def scenario() -> None:
        await learner.save(target)
        await learner.train(make_batch(score_cached))
        await learner.save(target)

    score_cached = score(teacher_path, "hidden")
    asyncio.run(scenario())
    assert sorted(path.name for path in target.parent.iterdir()) == ["final"]
    loaded = dict(AutoModelForCausalLM.from_pretrained(target).named_parameters())
    publication = asyncio.run(learner.publish())
    for name, tensor in read_tensors(publication.buckets, publication.manifest.tensors):
        torch.testing.assert_close(tensor, loaded[name].detach(), atol=0, rtol=0)
    assert AutoTokenizer.from_pretrained(target).eos_token == "</s>"


def test_mixed_target_kinds_are_refused(student_path: Path, teacher_path: Path) -> None:
    hidden, full = score(teacher_path, "hidden"), score(teacher_path, "full")
    learner = make_learner(student_path, teacher_path)
    with pytest.raises(EngineError, match="FullTargets, HiddenTargets"):
        asyncio.run(learner.train(make_batch([hidden[0], full[1]])))


def test_hidden_targets_without_a_readout_are_refused(student_path: Path, teacher_path: Path) -> None:
    student = load_student(student_path, gradient_checkpointing=False)
    settings = make_settings(teacher_path, teacher_readout=None)
    with pytest.raises(EngineError, match="readout"):
        accumulate_gradient(student, make_batch(score(teacher_path, "hidden")), settings)


def test_a_student_that_is_no_language_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match=f"student {tmp_path} does not load as a language model"):
        load_student(tmp_path, gradient_checkpointing=False)


def test_full_targets_longer_than_the_real_ids_are_cut(student_path: Path, teacher_path: Path) -> None:
    num_ids = tiny.VOCABULARY - 8
    learner_loss = accumulate_gradient(
        load_student(student_path, gradient_checkpointing=False),
        make_batch(score(teacher_path, "full", num_ids=num_ids)),
        make_settings(teacher_path, num_ids=num_ids, teacher_readout=None),
    )
    hidden_loss = accumulate_gradient(
        load_student(student_path, gradient_checkpointing=False),
        make_batch(score(teacher_path, "hidden", num_ids=num_ids)),
        make_settings(
            teacher_path,
            num_ids=num_ids,
            teacher_readout=load_readout(teacher_path, dtype="float32", num_ids=num_ids),
        ),
    )
    assert learner_loss == pytest.approx(hidden_loss, rel=1e-5)


def test_the_teacher_decides_the_gradient(student_path: Path, teacher_path: Path, tmp_path: Path) -> None:
    other = tiny.save_causal(tmp_path / "other", seed=9, num_layers=3)
    found = []
    for path in (teacher_path, other):
        student = load_student(student_path, gradient_checkpointing=False)
        accumulate_gradient(student, make_batch(score(path, "hidden")), make_settings(path))
        found.append(gradients(student)["model.norm.weight"])
    assert not torch.allclose(found[0], found[1], rtol=0.1)


@pytest.mark.parametrize("kind", ["reverse_kl", "jsd", "tvd"])
def test_every_divergence_trains(student_path: Path, teacher_path: Path, kind: str) -> None:
    student = load_student(student_path, gradient_checkpointing=False)
    settings = make_settings(teacher_path, divergence=make_divergence(kind, beta=0.25))
    loss = accumulate_gradient(student, make_batch(score(teacher_path, "hidden")), settings)
    assert loss > 0
    assert all(gradient.isfinite().all() for gradient in gradients(student).values())
    assert isinstance(score(teacher_path, "full")[0].scores[0].targets, FullTargets)


def test_fixed_pairs_train_like_student_sequences(student_path: Path, teacher_path: Path) -> None:
    prompt = tiny.prompts([4])[0]
    pair = fixed_trajectory(prompt.sample_id, prompt.token_ids, np.asarray([5, 6, tiny.STOP], np.int32), 8)
    teacher = HfTeacher(teacher_path, dtype="float32", transport="hidden", pad_token_id=tiny.PAD)
    scored = tiny.scored([pair], asyncio.run(teacher.score([pair])))
    report = asyncio.run(make_learner(student_path, teacher_path).train(make_batch(scored)))
    assert report.num_trained_tokens == 3
    assert report.loss > 0
