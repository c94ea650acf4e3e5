"""The four loops over fakes: order, staleness, mixture, failure."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.errors import EngineError
from gkd_dist.fleet import Fleet
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import (
    Prompt,
    SamplingParams,
    ScoredTrajectory,
    Source,
    StepReport,
    TrainBatch,
    Trajectory,
    VersionRange,
    WeightPublication,
)
from tests.fleets import fleet_of
from tests.rings import BATCH, make_plan, run


def test_every_step_trains_on_the_version_before_it() -> None:
    learner = FakeLearner()
    run(make_plan(6, 1.0), fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner))
    assert [batch.step for batch in learner.batches] == list(range(6))
    for batch in learner.batches:
        assert {item.trajectory.versions for item in batch.scored} == {VersionRange(batch.step, batch.step)}


def test_each_stream_position_is_trained_once_and_in_order() -> None:
    learner = FakeLearner()
    run(make_plan(5, 0.5), fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner))
    indices = [item.trajectory.sample_id.prompt_index for batch in learner.batches for item in batch.scored]
    assert indices == list(range(5 * BATCH))


@pytest.mark.parametrize("mix", ["per_batch", "per_sequence"])
def test_batches_hold_what_the_mixture_says(mix: str) -> None:
    plan, learner = make_plan(12, 0.3, mix), FakeLearner()
    run(plan, fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner))
    counts = [sum(item.trajectory.source is Source.STUDENT for item in batch.scored) for batch in learner.batches]
    assert counts == [plan.mixture.num_student(step) for step in range(12)]


def test_a_batch_of_fixed_pairs_alone_asks_no_sampler() -> None:
    sampler = FakeSampler()
    run(make_plan(3, 0.0), fleet_of([sampler], {"teacher": [FakeTeacher()]}, FakeLearner()))
    assert sampler.calls == []
    assert sampler.policy_version == 3


@pytest.mark.parametrize(("student_fraction", "versions"), [(0.0, [3]), (1.0, [1, 2, 3])])
def test_weights_that_nobody_samples_with_stay_where_they_are(
    student_fraction: float, versions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the last ones, which are evaluated."""
    published = []

    async def publish(self: FakeLearner) -> object:
        publication = await own(self)
        published.append(publication.manifest.version)
        return publication

    own = FakeLearner.publish
    monkeypatch.setattr(FakeLearner, "publish", publish)
    sampler = FakeSampler()
    run(make_plan(3, student_fraction), fleet_of([sampler], {"teacher": [FakeTeacher()]}, FakeLearner()))
    assert published == versions
    assert sampler.policy_version == 3


class Recording(FakeSampler):
    """Remembers which version it held when it was asked, and what it loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_at: list[int] = []
        self.loaded: list[int] = []

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        self.asked_at.append(self.policy_version)
        return await super().sample(prompts, params)

    async def load_weights(self, publication: WeightPublication) -> int:
        self.loaded.append(publication.manifest.version)
        return await super().load_weights(publication)


@pytest.mark.parametrize(
    ("student_fraction", "whole_steps", "versions"), [(0.0, True, []), (0.0, False, []), (1.0, True, [1, 2])]
)
def test_the_last_weights_stay_too_where_nobody_evaluates_them(
    student_fraction: float, whole_steps: bool, versions: list[int]
) -> None:
    """The learner has them all the same, and every step is trained and told as it is otherwise."""
    sampler, learner = Recording(), FakeLearner()
    plan = make_plan(
        3, student_fraction, is_evaluated=False, whole_steps=whole_steps, max_staleness=0 if whole_steps else 1
    )
    metrics, sink = run(plan, fleet_of([sampler], {"teacher": [FakeTeacher()]}, learner))
    assert sampler.loaded == versions
    assert [batch.step for batch in learner.batches] == [record["step"] for record in sink.records] == [0, 1, 2]
    assert [value for _, name, value, _ in metrics.calls if name == "gkd_policy_version"][-1] == 3


@pytest.mark.parametrize("student_fraction", [0.5, 1.0])
def test_an_asynchronous_run_that_is_not_evaluated_ends_without_its_last_weights(student_fraction: float) -> None:
    sampler, learner = Recording(), FakeLearner()
    plan = make_plan(
        6, student_fraction, is_evaluated=False, whole_steps=False, max_staleness=1, replay_capacity=2 * BATCH
    )
    run(plan, fleet_of([sampler], {"teacher": [FakeTeacher()]}, learner))
    assert sampler.loaded == [1, 2, 3, 4, 5]
    for batch in learner.batches:
        assert len(batch.scored) == BATCH
        assert all(
            item.trajectory.versions is None or item.trajectory.versions.oldest >= batch.step - 1
            for item in batch.scored
        )


@pytest.mark.parametrize("seed", range(4))
def test_where_the_coin_says_fixed_pairs_no_weights_move_and_the_student_never_writes_with_older_ones(
    seed: int,
) -> None:
    """Algorithm 1: all steps of the student are of the version before them; the last version is there at the end."""
    num_steps = 16
    mixture = Mixture(0.5, "per_batch", ScheduleConfig(), batch_size=BATCH, seed=seed, max_steps=num_steps)
    sampler, learner = Recording(), FakeLearner()
    run(make_plan(num_steps, 0.5, mixture=mixture), fleet_of([sampler], {"teacher": [FakeTeacher()]}, learner))
    writing = [step for step in range(num_steps) if mixture.num_student(step)]
    assert 0 < len(writing) < num_steps
    assert sampler.asked_at == writing
    assert sampler.loaded == [step for step in writing if step] + [num_steps]
    for batch in learner.batches:
        versions = {item.trajectory.versions for item in batch.scored}
        assert versions == ({VersionRange(batch.step, batch.step)} if batch.step in writing else {None})


@pytest.mark.parametrize("more", [{"max_staleness": 1, "replay_capacity": 2 * BATCH}, {"whole_steps": False}])
def test_where_prompts_may_be_given_out_ahead_all_weights_move(more: dict[str, object]) -> None:
    mixture = Mixture(0.5, "per_batch", ScheduleConfig(), batch_size=BATCH, seed=0, max_steps=8)
    sampler = Recording()
    run(make_plan(8, 0.5, mixture=mixture, **more), fleet_of([sampler], {"teacher": [FakeTeacher()]}, FakeLearner()))
    assert sampler.loaded == list(range(1, 9))


def test_weights_reach_every_sampler_after_every_step_and_replicas_share_the_prompts() -> None:
    samplers, teachers = [FakeSampler(), FakeSampler(), FakeSampler()], [FakeTeacher(), FakeTeacher()]
    learner = FakeLearner()
    run(make_plan(4, 1.0), fleet_of(samplers, {"teacher": teachers}, learner))
    assert [sampler.policy_version for sampler in samplers] == [4, 4, 4]
    assert [sum(map(len, sampler.calls)) for sampler in samplers] == [4, 8, 4]
    assert all(teacher.calls for teacher in teachers)
    indices = [item.trajectory.sample_id.prompt_index for item in learner.batches[0].scored]
    assert indices == [0, 1, 2, 3]


def test_denominators_cover_the_whole_batch() -> None:
    learner = FakeLearner()
    run(make_plan(2, 0.5), fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner))
    for batch in learner.batches:
        assert batch.num_sequences == BATCH
        assert batch.num_tokens == sum(item.trajectory.num_completion_tokens for item in batch.scored)


def test_checkpoints_are_saved_by_version() -> None:
    learner = FakeLearner()
    run(make_plan(5, 0.0, save_steps=2), fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner))
    assert learner.saved == [Path("students/step-2"), Path("students/step-4")]


def test_one_record_per_step_accounts_for_everything() -> None:
    metrics, sink = run(make_plan(3, 0.5), fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner()))
    assert [record["step"] for record in sink.records] == [0, 1, 2]
    for record in sink.records:
        assert record["student_sequences"] == record["fixed_sequences"] == 2
        assert record["sampled_tokens"] == 2 * 5
        assert record["trained_tokens"] == 2 * 5 + 2 * 3
        assert record["scored_tokens"] == record["trained_tokens"] + 4 * 2
        assert record["staleness"] == 0
        assert record["teacher_mass"] == 0.75
        parts = sum(record[f"{part}_s"] for part in ("sample", "score", "learn", "publish"))
        assert 0 < parts <= record["step_s"]
    counted = sum(value for kind, name, value, _ in metrics.calls if name == "gkd_learner_trained_tokens_total")
    assert counted == sum(record["trained_tokens"] for record in sink.records)


class BrokenSampler(FakeSampler):
    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        raise EngineError("the sampler is broken")


class BrokenTeacher(FakeTeacher):
    async def score(self, trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory]:
        raise EngineError("the teacher is broken")


class BrokenLearner(FakeLearner):
    async def train(self, batch: TrainBatch) -> StepReport:
        raise EngineError("the learner is broken")


@pytest.mark.parametrize(
    ("fleet", "message"),
    [
        (fleet_of([BrokenSampler()], {"teacher": [FakeTeacher()]}, FakeLearner()), "sampler is broken"),
        (fleet_of([FakeSampler()], {"teacher": [BrokenTeacher()]}, FakeLearner()), "teacher is broken"),
        (fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, BrokenLearner()), "learner is broken"),
    ],
)
def test_the_first_failure_ends_the_run_with_its_own_error(fleet: Fleet, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        run(make_plan(3, 1.0), fleet)


class CausedTeacher(FakeTeacher):
    async def score(self, trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory]:
        raise EngineError("the teacher is broken") from OSError("the disk is full")


def test_the_failure_keeps_its_cause() -> None:
    with pytest.raises(EngineError) as caught:
        run(make_plan(3, 1.0), fleet_of([FakeSampler()], {"teacher": [CausedTeacher()]}, FakeLearner()))
    assert str(caught.value.__cause__) == "the disk is full"


def test_depth_and_capacity_of_the_replay_count_the_same_things() -> None:
    metrics, _ = run(make_plan(2, 0.5), fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner()))
    (capacity,) = [value for _, name, value, _ in metrics.calls if name == "gkd_queue_capacity"]
    assert capacity == 2 * BATCH  # student's and fixed ones, a batch each
    assert max(value for _, name, value, _ in metrics.calls if name == "gkd_queue_depth") <= capacity


def test_zero_steps_do_nothing() -> None:
    learner = FakeLearner()
    run(make_plan(0, 1.0), fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner))
    assert learner.batches == []
