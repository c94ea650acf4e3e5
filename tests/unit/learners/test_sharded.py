"""Two learner ranks on real gloo processes against one: losses, gradients, parameters, and what leaves them."""

import asyncio
import math
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from gkd_dist.cluster.shares import shares
from gkd_dist.config.learner import LearnerConfig
from gkd_dist.divergences import ForwardKl
from gkd_dist.engines.families import Causal, EncoderDecoder
from gkd_dist.errors import EngineError, ModelError
from gkd_dist.learners.layouts import PackedLayout, PaddedLayout
from gkd_dist.learners.learner import GkdLearner
from gkd_dist.learners.load import load_student
from gkd_dist.learners.objective import Distillation
from gkd_dist.learners.seat import RankSeat
from gkd_dist.learners.sharded import shard
from gkd_dist.learners.step import LossSettings, accumulate_gradient
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.learners.world import ALONE, RankGroup, World
from gkd_dist.targets import HiddenTargets
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.teachers.readout import load_readout
from gkd_dist.types import ScoredTrajectory, StepReport, TeacherScore, TrainBatch
from gkd_dist.weights.publisher import WeightPublisher
from gkd_dist.weights.tensors import read_tensors
from tests import plain_forwards, tiny
from tests.ranks import run_ranks

STEPS = [
    [(5, 7), (1, 3), (9, 1), (4, 12), (6, 6)],
    [(3, 4), (20, 30)],  # one rank has many micro-batches, the other one
    [(4, 9)],  # one rank has nothing
    [(2, 2), (2, 2), (2, 2), (7, 8), (1, 20)],
]


@dataclass(frozen=True)
class Case:
    """How a student is trained."""

    tied: bool
    reduction: str
    packed: bool = False
    checkpointing: bool = False
    vocabulary: int = tiny.VOCABULARY
    encoder_decoder: bool = False


CASES = {
    "tied, sequence mean, padded": Case(True, "sequence_mean"),
    "untied, token mean, packed": Case(False, "token_mean", packed=True),
    "tied, token mean, packed, checkpointing": Case(True, "token_mean", packed=True, checkpointing=True),
    "untied, sequence mean, checkpointing, odd vocabulary": Case(
        False, "sequence_mean", checkpointing=True, vocabulary=tiny.VOCABULARY + 1
    ),
    "encoder-decoder, tied": Case(True, "sequence_mean", encoder_decoder=True),
    "encoder-decoder, untied, checkpointing": Case(False, "token_mean", checkpointing=True, encoder_decoder=True),
}


def settings_of(case: Case, teacher: Path) -> LossSettings:
    readout = load_readout(teacher, dtype="float32", num_ids=tiny.VOCABULARY)
    return LossSettings(
        objective=Distillation(ForwardKl(), {"teacher": TeacherView(readout, 1.0)}, TargetRules(tiny.VOCABULARY)),
        reduction=case.reduction,
        bf16=False,
        max_micro_batch_tokens=16,
        pad_token_id=tiny.PAD,
        num_ids=tiny.VOCABULARY,
        layout=PackedLayout()
        if case.packed
        else PaddedLayout(EncoderDecoder(tiny.PAD) if case.encoder_decoder else Causal()),
        behaviour_temperature=1.0,
    )


def learner_of(case: Case, student: Path, teacher: Path, world: World, **config: object) -> GkdLearner:
    loaded = load_student(student, gradient_checkpointing=case.checkpointing)
    return GkdLearner(
        shard(loaded, world) if isinstance(world, RankGroup) else loaded,
        source=student,
        config=LearnerConfig(**({"bf16": False, "max_steps": 10, "learning_rate": 1e-3} | config)),
        settings=settings_of(case, teacher),
        publisher=WeightPublisher("epoch", 1 << 15, "float32"),
        world=world,
    )


def batch_of(scored: list[ScoredTrajectory], step: int) -> TrainBatch:
    return TrainBatch(step, tuple(scored), len(scored), sum(item.trajectory.num_completion_tokens for item in scored))


def own(batch: TrainBatch, world: World) -> TrainBatch:
    return shares(batch, world.size)[world.rank]


def train(case: Case, student: Path, teacher: Path, batches: list[TrainBatch], world: World, out: Path) -> Any:
    """Reports, an evaluation in between, what is published, and gradients of the first batch."""
    learner = learner_of(case, student, teacher, world)

    async def scenario() -> Any:
        reports = [await learner.train(own(batches[0], world))]
        evaluation = await learner.evaluate(own(batches[0], world))
        reports += [await learner.train(own(batch, world)) for batch in batches[1:]]
        publication = await learner.publish()
        await learner.save(out)
        tensors = {
            name: value.numpy() for name, value in read_tensors(publication.buckets, publication.manifest.tensors)
        }
        return reports, evaluation, tensors

    reports, evaluation, tensors = asyncio.run(scenario())
    fresh = load_student(student, gradient_checkpointing=case.checkpointing)
    fresh = shard(fresh, world) if isinstance(world, RankGroup) else fresh
    accumulate_gradient(fresh, own(batches[0], world), settings_of(case, teacher), None, world)
    gradients = {name: world.whole(value.grad).numpy() for name, value in fresh.named_parameters()}
    return reports, evaluation, tensors, gradients


def everything(seat: RankSeat, jobs: dict[str, tuple[Any, ...]], folder: Path) -> dict[str, Any]:
    """All cases at one rank, one after the other in one process group."""
    torch.set_num_threads(1)
    world = RankGroup(seat)
    found: dict[str, Any] = {name: train(*job, world, folder / f"ranks {name}") for name, job in jobs.items()}
    first, *_ = jobs.values()
    found["not finite"] = skipped_steps(*first, world)
    found["refused"] = refusal(*first, world)
    found["resumed"] = resumption(*first, world, folder / "snapshot")
    found["gathered"] = most_gathered(*first, world)
    found["told"] = world.everyone({"rank": seat.rank, "none": None, "nan": math.nan, "long": "x" * seat.rank * 100})
    world.close()
    return found


def skipped_steps(case: Case, student: Path, teacher: Path, batches: list[TrainBatch], world: World) -> Any:
    """One sequence of the batch, so at one rank, has targets that are not finite."""
    learner = learner_of(case, student, teacher, world)
    poisoned = list(batches[0].scored)
    hidden = np.full_like(poisoned[0].scores[0].targets.hidden, np.nan)
    poisoned[0] = ScoredTrajectory(poisoned[0].trajectory, (TeacherScore("teacher", HiddenTargets(hidden)),))

    async def scenario() -> Any:
        before = await learner.publish()
        skipped = await learner.train(own(replace(batches[0], scored=tuple(poisoned)), world))
        after = await learner.publish()
        good = await learner.train(own(batches[1], world))
        return before.manifest.digests, skipped, after.manifest.digests, good

    return asyncio.run(scenario())


def refusal(case: Case, student: Path, teacher: Path, batches: list[TrainBatch], world: World) -> Any:
    """One rank has an id that is not shared: all refuse, and all can go on."""
    learner = learner_of(case, student, teacher, world)
    beyond = list(batches[0].scored)
    ids = beyond[0].trajectory.completion_ids.copy()
    ids[0] = tiny.VOCABULARY
    beyond[0] = replace(beyond[0], trajectory=replace(beyond[0].trajectory, completion_ids=ids))

    async def scenario() -> Any:
        try:
            await learner.train(own(replace(batches[0], scored=tuple(beyond)), world))
        except EngineError as error:
            return str(error), await learner.train(own(batches[0], world))

    return asyncio.run(scenario())


def resumption(case: Case, student: Path, teacher: Path, batches: list[TrainBatch], world: World, folder: Path) -> Any:
    """Digests of the weights after all steps, uninterrupted and from a snapshot."""
    if world.rank == 0:
        folder.mkdir()
    world.everyone("the folder is there")

    async def scenario() -> Any:
        learner = learner_of(case, student, teacher, world)
        for batch in batches[:2]:
            await learner.train(own(batch, world))
        await learner.evaluate(own(batches[0], world))  # leaves the root whole
        assert await learner.snapshot() == 2
        for batch in batches[2:]:
            await learner.train(own(batch, world))
        await learner.write_snapshot(folder)
        world.everyone("all parts are written")
        again = learner_of(case, student, teacher, world)
        assert await again.restore(folder) == 2
        for batch in batches[2:]:
            await again.train(own(batch, world))
        return [(await each.publish()).manifest.digests for each in (learner, again)]

    return asyncio.run(scenario())


def widowed(
    seat: RankSeat, place: str, witness: Path, case: Case, student: Path, teacher: Path, batches: list[TrainBatch]
) -> Any:
    """What a rank raises whose neighbour dies at `place` in the second step."""
    torch.set_num_threads(1)
    world = RankGroup(seat)
    learner = learner_of(case, student, teacher, world)
    if seat.rank == 1:
        os.environ |= {"GKD_FAULTS": f"{place}:kill@2", "GKD_FAULTS_WITNESS": str(witness)}

    async def scenario() -> Any:
        reports = [await learner.train(own(batches[0], world))]
        try:
            for batch in batches[1:]:
                reports.append(await learner.train(own(batch, world)))
        except (RuntimeError, EngineError) as error:
            return len(reports), str(error)

    return asyncio.run(scenario())


def most_gathered(case: Case, student: Path, teacher: Path, batches: list[TrainBatch], world: World) -> Any:
    """Bytes of whole parameters that were alive together while weights were published."""
    learner = learner_of(case, student, teacher, world)
    alive, most, total = 0, 0, 0
    gather = DTensor.full_tensor

    def counted(part: DTensor) -> torch.Tensor:
        nonlocal alive, most, total
        whole = gather(part)

        def gone() -> None:
            nonlocal alive
            alive -= whole_bytes

        whole_bytes = whole.untyped_storage().nbytes()
        weakref.finalize(whole, gone)
        alive, total = alive + whole_bytes, total + whole_bytes
        most = max(most, alive)
        return whole

    DTensor.full_tensor = counted
    try:
        publication = asyncio.run(learner.publish())
    finally:
        DTensor.full_tensor = gather
    return most, total, sum(bucket.nbytes for bucket in publication.buckets)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def jobs(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Case, student, teacher and batches of each case."""
    teacher_path = tiny.save_causal(folder / "teacher", seed=2, num_layers=3)
    teacher = HfTeacher(teacher_path, dtype="float32", transport="hidden", pad_token_id=tiny.PAD)
    batches = []
    for step, shapes in enumerate(STEPS):
        written = tiny.trajectories(shapes, seed=step)
        batches.append(batch_of(tiny.scored(written, asyncio.run(teacher.score(written))), step))
    students = {
        name: (tiny.save_t5 if case.encoder_decoder else tiny.save_causal)(
            folder / f"student {name}", seed=1, tie_word_embeddings=case.tied, vocab_size=case.vocabulary
        )
        for name, case in CASES.items()
    }
    return {name: (case, students[name], teacher_path, batches) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def ranks(jobs: dict[str, tuple[Any, ...]], folder: Path) -> list[dict[str, Any]]:
    return run_ranks(everything, jobs, folder)


@pytest.fixture(scope="module", params=CASES)
def both(
    request: pytest.FixtureRequest, jobs: dict[str, tuple[Any, ...]], ranks: list[dict[str, Any]], folder: Path
) -> Iterator[tuple[str, Any, list[Any]]]:
    """Name of a case, what one learner makes of it, and what each of two ranks does."""
    name = request.param
    yield name, train(*jobs[name], ALONE, folder / f"alone {name}"), [rank[name] for rank in ranks]


def test_two_ranks_report_what_one_does(both: tuple[str, Any, list[Any]]) -> None:
    """To 1e-5: float32 sums in another order. Every rank reports the whole step."""
    _, (alone, evaluation, *_), found = both
    for reports, evaluated, *_ in found:
        for one, report in zip(alone, reports, strict=True):
            assert isinstance(report, StepReport)
            assert report.loss == pytest.approx(one.loss, rel=1e-5)
            assert report.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
            assert report.quantities == pytest.approx(one.quantities, rel=1e-4, abs=1e-6)
            assert (report.num_sequences, report.num_trained_tokens) == (one.num_sequences, one.num_trained_tokens)
            assert (report.policy_version, report.num_skipped) == (one.policy_version, 0)
        assert evaluated.forward_kl == pytest.approx(evaluation.forward_kl, rel=1e-5)
        assert evaluated.reverse_kl == pytest.approx(evaluation.reverse_kl, rel=1e-5)
        assert (evaluated.num_sequences, evaluated.num_tokens) == (evaluation.num_sequences, evaluation.num_tokens)
    assert alone[0].quantities.keys() == {"behaviour_gap_mean_nats", "behaviour_gap_max_nats"}


def test_gradients_are_summed_over_ranks(both: tuple[str, Any, list[Any]]) -> None:
    """To 1e-5 of the largest entry of each parameter."""
    _, (*_, alone), found = both
    for *_, gradients in found:
        assert gradients.keys() == alone.keys()
        for name, gradient in alone.items():
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(gradients[name] / scale, gradient / scale, atol=1e-5, rtol=0, err_msg=name)


def test_parameters_after_four_steps_are_those_of_one_rank(both: tuple[str, Any, list[Any]]) -> None:
    """Weights of 0.3 that moved by about 4e-3. AdamW divides gradients near 0 by their own size, so rounding shows
    there: the mean over each parameter is held to 1e-6, the largest to 1e-4."""
    _, (_, _, alone, _), ((_, _, first, _), (_, _, second, _)) = both
    assert second == {}
    assert first.keys() == alone.keys()
    for name, value in alone.items():
        assert np.abs(first[name] - value).mean() < 1e-6, name
        np.testing.assert_allclose(first[name], value, atol=1e-4, rtol=0, err_msg=name)


def test_what_is_saved_is_what_is_published(both: tuple[str, Any, list[Any]], folder: Path) -> None:
    name, _, ((_, _, published, _), _) = both
    saved = plain_forwards.load(folder / f"ranks {name}")
    parameters = dict(saved.named_parameters())
    assert parameters.keys() == published.keys()
    for key, value in published.items():
        np.testing.assert_array_equal(parameters[key].detach().numpy(), value)
    files = [sorted(path.name for path in (folder / f"{who} {name}").iterdir()) for who in ("ranks", "alone")]
    assert files[0] == files[1]


def test_all_ranks_skip_a_step_that_is_not_finite_at_one_of_them(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        before, skipped, after, good = found["not finite"]
        assert (skipped.num_skipped, good.num_skipped) == (1, 0)
        assert math.isnan(skipped.loss)
        assert math.isfinite(good.loss)
        assert before == after
    assert ranks[0]["not finite"][0]


def test_what_one_rank_cannot_train_on_all_refuse_and_go_on(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        message, report = found["refused"]
        assert "test/0/0 contains id 128" in message
        assert report.policy_version == 1


def test_ranks_go_on_from_their_parts_of_a_snapshot_bit_for_bit(ranks: list[dict[str, Any]], folder: Path) -> None:
    uninterrupted, resumed = ranks[0]["resumed"]
    assert uninterrupted == resumed
    assert len(uninterrupted) > 1
    sizes = [(folder / "snapshot" / f"rank-{rank}" / "optimizer.safetensors").stat().st_size for rank in range(2)]
    whole = 8 * sum(value.size for value in ranks[0][next(iter(CASES))][2].values())
    assert all(abs(size - whole / 2) < 0.1 * whole for size in sizes)


def test_one_learner_refuses_the_snapshot_of_two(
    ranks: list[dict[str, Any]], jobs: dict[str, tuple[Any, ...]], folder: Path
) -> None:
    case, student, teacher, _ = next(iter(jobs.values()))
    with pytest.raises(ModelError, match="learner ranks: 2 in the checkpoint, 1 here"):
        asyncio.run(learner_of(case, student, teacher, ALONE).restore(folder / "snapshot"))
    assert ranks


def test_one_parameter_at_a_time_is_whole_while_weights_are_published(
    ranks: list[dict[str, Any]], jobs: dict[str, tuple[Any, ...]]
) -> None:
    _, student, *_ = next(iter(jobs.values()))
    sizes = [4 * value.numel() for value in plain_forwards.load(student).parameters()]
    assert max(sizes) < sum(sizes) / 4
    for found, num_published in zip(ranks, (sum(sizes), 0), strict=True):
        most, total, published = found["gathered"]
        assert total == sum(sizes)
        assert most == max(sizes)
        assert published == num_published


@pytest.mark.parametrize("place", ["learner.after_backward", "learner.in_optimizer_step"])
def test_a_rank_whose_neighbour_dies_in_a_step_fails_and_does_not_wait(
    jobs: dict[str, tuple[Any, ...]], tmp_path: Path, place: str
) -> None:
    (survivor,) = run_ranks(widowed, place, tmp_path, *next(iter(jobs.values())), num_lost=1)
    assert [path.name for path in tmp_path.iterdir()] == [f"{place}.kill.2"]
    num_reports, failure = survivor
    # Nothing is exchanged after the gradient norm: a neighbour that dies in the optimizer's step is missed in the next.
    assert num_reports == (1 if place == "learner.after_backward" else 2)
    assert failure


def test_ranks_tell_each_other_values_of_any_length(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        first, second = found["told"]
        assert (first["rank"], second["rank"]) == (0, 1)
        assert first["none"] is None
        assert math.isnan(second["nan"])
        assert (first["long"], second["long"]) == ("", "x" * 100)
