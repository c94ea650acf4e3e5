"""The asynchronous ring over fakes that are slow, late and unreliable: what holds for every schedule."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.errors import EngineError, RejectedError
from gkd_dist.pipeline.progress import Progress
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import Prompt, SamplingParams, Source, StepReport, TrainBatch, Trajectory, VersionRange
from tests.fleets import fleet_of
from tests.rings import BATCH, make_plan, run


class Schedule:
    """Who waits how long, and who fails, drawn from a seed."""

    def __init__(self, seed: int, patience: int) -> None:
        self.rng = random.Random(seed)
        self.patience = patience

    async def pause(self) -> None:
        for _ in range(self.rng.randint(0, self.patience)):
            await asyncio.sleep(0)


class SlowSampler(FakeSampler):
    """Weights may change while it writes: the range says so. Some prompts are refused by every sampler."""

    def __init__(self, schedule: Schedule, refused: frozenset[int] = frozenset(), failures: float = 0.0) -> None:
        super().__init__()
        self._schedule = schedule
        self._refused = refused
        self._failures = failures

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        oldest = self.policy_version
        await self._schedule.pause()
        if any(prompt.sample_id.prompt_index in self._refused for prompt in prompts):
            raise RejectedError("too long")
        if self._schedule.rng.random() < self._failures:
            raise EngineError("out of blocks")
        answers = await super().sample(prompts, params)
        newest = self.policy_version
        return [
            Trajectory(
                sample_id=answer.sample_id,
                prompt_ids=answer.prompt_ids,
                completion_ids=answer.completion_ids,
                source=answer.source,
                finish_reason=answer.finish_reason,
                behaviour_log_probs=answer.behaviour_log_probs,
                versions=VersionRange(oldest, newest),
            )
            for answer in answers
        ]


class SlowTeacher(FakeTeacher):
    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule

    async def score(self, trajectories):
        await self._schedule.pause()
        return await super().score(trajectories)


class SlowLearner(FakeLearner):
    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule

    async def train(self, batch: TrainBatch) -> StepReport:
        await self._schedule.pause()
        return await super().train(batch)


def turn(
    seed: int,
    *,
    max_staleness: int,
    student_fraction: float = 0.5,
    mix: str = "per_sequence",
    max_steps: int = 12,
    num_generations: int = 1,
    max_uses: int = 1,
    refused: frozenset[int] = frozenset(),
    failures: float = 0.0,
    speeds: tuple[int, int, int] = (20, 5, 3),
) -> tuple[SlowLearner, Progress, Mixture]:
    """One run; `speeds` are the longest pauses of samplers, teachers and the learner."""
    mixture = Mixture(
        student_fraction,
        mix,
        ScheduleConfig(),
        batch_size=BATCH,
        seed=seed,
        max_steps=max_steps,
        num_generations=num_generations,
    )
    plan = make_plan(
        max_steps,
        student_fraction,
        mixture=mixture,
        whole_steps=False,
        max_staleness=max_staleness,
        max_uses=max_uses,
        replay_capacity=BATCH * max(2, max_staleness + 1),
    )
    sampling, scoring, learning = (Schedule(seed + index, speed) for index, speed in enumerate(speeds))
    learner, progress = SlowLearner(learning), Progress(plan.run)
    fleet = fleet_of(
        [SlowSampler(sampling, refused, failures) for _ in range(3)], {"teacher": [SlowTeacher(scoring)] * 2}, learner
    )
    run(plan, fleet, progress=progress)
    return learner, progress, mixture


def check(learner: SlowLearner, mixture: Mixture, max_staleness: int, max_uses: int = 1) -> Counter[int]:
    """What no schedule may break; returns how often each staleness was trained on."""
    uses: Counter[object] = Counter()
    staleness: Counter[int] = Counter()
    for batch in learner.batches:
        student = [item for item in batch.scored if item.trajectory.source is Source.STUDENT]
        assert len(batch.scored) == BATCH
        assert len(student) == mixture.num_student(batch.step), "lambda is exact at every step"
        ids = [item.trajectory.sample_id for item in batch.scored]
        assert len(set(ids)) == BATCH
        uses.update(ids)
        for item in student:
            assert item.trajectory.versions is not None
            staleness[batch.step - item.trajectory.versions.oldest] += 1
            assert item.trajectory.versions.newest <= batch.step
    assert not staleness or max(staleness) <= max_staleness
    assert max(uses.values()) <= max_uses
    return staleness


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    max_staleness=st.integers(0, 4),
    student_fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    mix=st.sampled_from(["per_sequence", "per_batch"]),
    speeds=st.tuples(st.integers(0, 60), st.integers(0, 30), st.integers(0, 30)),
)
def test_no_schedule_breaks_the_staleness_bound_or_lambda(
    seed: int, max_staleness: int, student_fraction: float, mix: str, speeds: tuple[int, int, int]
) -> None:
    learner, progress, mixture = turn(
        seed, max_staleness=max_staleness, student_fraction=student_fraction, mix=mix, speeds=speeds
    )
    check(learner, mixture, max_staleness)
    assert len(learner.batches) == 12
    assert len(progress.trained) == 12 * BATCH and len(progress.dropped) == 0
    assert progress.trained.ranges() == {0: [(0, 12 * BATCH)]}, "every row once, none left out"


def test_staleness_is_used_where_it_is_allowed() -> None:
    learner, _, mixture = turn(1, max_staleness=3, student_fraction=1.0, speeds=(40, 0, 2))
    assert check(learner, mixture, 3).keys() > {0, 1, 2}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), max_staleness=st.integers(0, 3), refused=st.frozensets(st.integers(0, 40), max_size=6)
)
def test_rows_that_nobody_can_answer_are_replaced_and_lambda_stays_exact(
    seed: int, max_staleness: int, refused: frozenset[int]
) -> None:
    learner, progress, mixture = turn(seed, max_staleness=max_staleness, refused=refused)
    check(learner, mixture, max_staleness)
    trained = {item.trajectory.sample_id.prompt_index for batch in learner.batches for item in batch.scored}
    dropped = {index for pairs in progress.dropped.ranges().values() for pair in pairs for index in range(*pair)}
    assert dropped <= refused, "only what every sampler refused"
    assert len(trained) == 12 * BATCH and not trained & dropped


def test_a_sampler_that_fails_now_and_then_loses_nothing() -> None:
    learner, progress, mixture = turn(5, max_staleness=2, student_fraction=1.0, failures=0.1)
    check(learner, mixture, 2)
    assert progress.trained.ranges() == {0: [(0, 12 * BATCH)]}


@pytest.mark.parametrize("num_generations", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_samples_of_a_prompt_stay_together(num_generations: int, seed: int) -> None:
    learner, _, mixture = turn(seed, max_staleness=2, student_fraction=1.0, num_generations=num_generations)
    check(learner, mixture, 2)
    for batch in learner.batches:
        prompts = Counter(item.trajectory.sample_id.prompt_index for item in batch.scored)
        assert set(prompts.values()) == {num_generations}


def test_a_fast_learner_uses_sequences_again_as_often_as_it_may() -> None:
    learner, progress, mixture = turn(
        3, max_staleness=4, student_fraction=1.0, max_uses=3, max_steps=12, speeds=(200, 0, 0)
    )
    check(learner, mixture, 4, max_uses=3)
    assert len(progress.trained) < 12 * BATCH, "the learner did not wait for fresh ones"
