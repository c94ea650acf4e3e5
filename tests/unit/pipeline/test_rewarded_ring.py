"""The ring with a reward: who is judged, what becomes of it, and several samples of each prompt."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.errors import EngineError
from gkd_dist.fleet import Fleet
from gkd_dist.metrics.sinks import StepSummary
from gkd_dist.pipeline.baselines import Baseline, LeaveOneOut, MovingAverage
from gkd_dist.pipeline.job import distil
from gkd_dist.pipeline.judging import judge
from gkd_dist.pipeline.progress import Progress
from gkd_dist.pipeline.ring import Plan, Reinforcement
from gkd_dist.supervision.pool import Pool
from gkd_dist.testing.fakes import FakeLearner, FakeReward, FakeSampler, FakeTeacher
from gkd_dist.types import Answer, Source, StepReport, TrainBatch, Trajectory
from tests import tiny
from tests.fleets import fleet_of
from tests.rings import make_job, make_plan, run

BATCH = 6


def as_text(trajectory: Trajectory) -> Answer:
    """As many words as the last id says."""
    return Answer("", "w " * int(trajectory.completion_ids[-1]), None)


def rewarded_plan(
    max_steps: int,
    student_fraction: float,
    *,
    mix: str = "per_sequence",
    num_generations: int = 1,
    make_baseline: Callable[[float | None], Baseline] = lambda mean: MovingAverage(0.5, mean),
) -> Plan:
    mixture = Mixture(
        student_fraction,
        mix,
        ScheduleConfig(),
        batch_size=BATCH,
        seed=0,
        max_steps=max_steps,
        num_generations=num_generations,
    )
    return replace(
        make_plan(max_steps, student_fraction),
        mixture=mixture,
        batch_size=BATCH,
        replay_capacity=BATCH,
        reinforcement=Reinforcement(as_text, make_baseline),
    )


def make_fleet(reward: FakeReward | None = None) -> Fleet:
    return fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner(), reward or FakeReward())


def test_only_what_the_student_wrote_is_judged_and_the_learner_gets_advantages() -> None:
    fleet = make_fleet(reward := FakeReward())
    _, sink = run(rewarded_plan(5, 0.5), fleet)
    baseline = MovingAverage(0.5)
    for batch, record in zip(fleet.learner.batches, sink.records, strict=True):
        for item in batch.scored:
            student = item.trajectory.source is Source.STUDENT
            assert item.reward == (float(item.trajectory.completion_ids[-1]) if student else None)
        assert batch.advantages.tolist() == baseline.advantages(batch.scored).tolist()
        judged = [item.reward for item in batch.scored if item.reward is not None]
        assert record["reward_mean"] == pytest.approx(np.mean(judged))
        assert record["advantage_std"] == pytest.approx(np.std(judged), rel=1e-5)
        assert record["judge_s"] >= 0
    assert [len(answers) for answers in reward.calls] == [3] * 5


def test_steps_of_fixed_pairs_alone_ask_no_reward() -> None:
    fleet = make_fleet(reward := FakeReward())
    metrics, sink = run(rewarded_plan(3, 0.0), fleet)
    assert reward.calls == []
    assert all(batch.advantages.tolist() == [0.0] * BATCH for batch in fleet.learner.batches)
    assert all("reward_mean" not in record for record in sink.records)
    assert "gkd_reward_mean" not in {name for _, name, _, _ in metrics.calls}


def test_without_a_reward_there_are_no_advantages() -> None:
    learner = FakeLearner()
    run(make_plan(2, 1.0), fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner))
    assert [batch.advantages for batch in learner.batches] == [None, None]


@pytest.mark.parametrize("mix", ["per_batch", "per_sequence"])
@pytest.mark.parametrize("num_generations", [2, 3])
def test_several_samples_of_each_prompt_skip_and_repeat_no_row(mix: str, num_generations: int) -> None:
    fleet = make_fleet()

    def make_baseline(_: float | None) -> Baseline:
        return LeaveOneOut(num_generations)

    run(rewarded_plan(9, 0.5, mix=mix, num_generations=num_generations, make_baseline=make_baseline), fleet)
    ids = [item.trajectory.sample_id for batch in fleet.learner.batches for item in batch.scored]
    assert len(set(ids)) == len(ids) == 9 * BATCH
    indices = [sample_id.prompt_index for sample_id in ids]
    assert indices == sorted(indices)
    assert set(indices) == set(range(max(indices) + 1))
    for batch in fleet.learner.batches:
        for index in {item.trajectory.sample_id.prompt_index for item in batch.scored}:
            group = [item.trajectory for item in batch.scored if item.trajectory.sample_id.prompt_index == index]
            repeats = [trajectory.sample_id.repeat_index for trajectory in group]
            assert repeats == (list(range(num_generations)) if group[0].source is Source.STUDENT else [0])


class Broken(FakeReward):
    async def judge(self, answers: Sequence[Answer]) -> list[float]:
        raise EngineError("the reward is broken")


class Short(FakeReward):
    async def judge(self, answers: Sequence[Answer]) -> list[float]:
        return [0.0] * (len(answers) - 1)


@pytest.mark.parametrize(
    ("reward", "message"), [(Broken(), "the reward is broken"), (Short(), "gave 5 numbers for 6 answers")]
)
def test_a_failing_reward_ends_the_run_with_its_own_error(reward: FakeReward, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        run(rewarded_plan(3, 1.0), make_fleet(reward))


class Mortal(FakeReward):
    """Its process ends at its third call."""

    async def judge(self, answers: Sequence[Answer]) -> list[float]:
        if len(self.calls) == 2:
            raise EngineError("reward died while asked to judge")
        return await super().judge(answers)


class Rewards:
    """Starts one that dies, then one that does not."""

    def __init__(self) -> None:
        self.started: list[FakeReward] = []

    async def start(self, slot: int) -> FakeReward:
        self.started.append(FakeReward() if self.started else Mortal())
        return self.started[-1]

    async def probe(self, replica: FakeReward) -> None:
        if isinstance(replica, Mortal):
            raise EngineError("it is dead")

    async def kill(self, replica: FakeReward) -> None: ...

    def waits_for(self, slot: int) -> str:
        return ""

    def describe(self, replica: FakeReward) -> dict[str, str | int]:
        return {}


@pytest.mark.parametrize("whole_steps", [True, False])
def test_a_reward_that_dies_is_replaced_and_nothing_is_sampled_or_scored_again(
    whole_steps: bool, tmp_path: Path
) -> None:
    rewards, sampler, teacher, learner = Rewards(), FakeSampler(), FakeTeacher(), FakeLearner()
    pool: Pool[FakeReward] = Pool("reward", rewards, SupervisionConfig(restart_backoff_s=0.01), target=1)
    fleet = replace(fleet_of([sampler], {"teacher": [teacher]}, learner), reward=pool)
    plan = replace(rewarded_plan(4, 1.0), whole_steps=whole_steps)

    async def turn() -> None:
        await pool.start()
        async with asyncio.timeout(20):
            await distil(make_job(plan, fleet, tmp_path))
        await pool.close()

    asyncio.run(turn())
    assert len(rewards.started) == 2 and rewards.started[1].closed
    assert [batch.step for batch in learner.batches] == [0, 1, 2, 3]
    asked = [prompt.sample_id for call in sampler.calls for prompt in call]
    assert len(asked) == len(set(asked)) == 4 * BATCH
    assert sum(len(call) for call in teacher.calls) == 4 * BATCH


def test_a_fleet_closes_its_reward() -> None:
    asyncio.run(make_fleet(reward := FakeReward()).close())
    assert reward.closed


def test_rewards_keep_the_order_of_the_trajectories() -> None:
    trajectories = tiny.trajectories([(1, 1)] * 4)
    found = asyncio.run(judge(Pool.of([FakeReward()]), trajectories, as_text))
    assert found == [float(item.completion_ids[-1]) for item in trajectories]


def test_the_status_line_shows_the_reward() -> None:
    line = StepSummary().line({"policy_version": 3, "max_steps": 9, "loss": 0.5, "reward_mean": 0.25})
    assert line == "step 3/9 | loss 0.5 | reward 0.25"


def test_a_step_that_was_not_trained_leaves_the_baseline_of_a_checkpoint_alone() -> None:
    class Lost(FakeLearner):
        async def train(self, batch: TrainBatch) -> StepReport:
            if batch.step == 2:
                raise EngineError("its targets are gone, and so are the teachers")
            return await super().train(batch)

    plan = rewarded_plan(3, 1.0)
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner := Lost(), FakeReward())
    progress = Progress(plan.run)
    with pytest.raises(EngineError):
        run(plan, fleet, progress=progress)
    expected = MovingAverage(0.5)
    for batch in learner.batches:
        expected.advantages(batch.scored)
    assert (progress.step, progress.baseline) == (2, expected.state)
