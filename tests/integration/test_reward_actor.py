"""A reward in an actor of its own: what it says and what it raises arrive as they were."""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from operator import methodcaller
from pathlib import Path

import pytest

from gkd_dist.cluster.placement import FleetPlan, RolePlan, start_fleet
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import DeadlineError, EngineError, ModelError
from gkd_dist.supervision.together import beside
from gkd_dist.testing.fakes import FakeLearner, FakeReward, FakeSampler, FakeTeacher
from gkd_dist.types import Answer
from tests.mock_engines import until

ANSWERS = [Answer("q", "three words here", None), Answer("q", "one", "one")]


@pytest.mark.ray
def test_a_reward_actor_judges_fails_and_ends_like_the_reward_itself() -> None:
    class Broken(FakeReward):  # local classes travel by value: actors cannot import this module
        async def judge(self, answers: list[Answer]) -> list[float]:
            raise EngineError("probabilities that are not finite")

    class Slow(FakeReward):
        async def judge(self, answers: list[Answer]) -> list[float]:
            await asyncio.sleep(60)
            return []

    def refused() -> FakeReward:
        raise ModelError("no label `entailment`")

    config = ClusterConfig(num_cpus_per_sampler=0, num_cpus_per_teacher=0, num_cpus_learner=0, request_timeout_s=2)
    plan = FleetPlan(RolePlan(FakeSampler), {"teacher": RolePlan(FakeTeacher)}, FakeLearner, 50, FakeReward)

    async def judged(plan: FleetPlan) -> list[float]:
        fleet = await start_fleet(plan, config, SupervisionConfig(infra_attempts=1))
        try:
            assert fleet.reward is not None
            return await fleet.reward.call(methodcaller("judge", ANSWERS), "judge")
        finally:
            await fleet.close()

    with ray_session(config):
        assert asyncio.run(judged(plan)) == [3.0, 1.0]
        with pytest.raises(EngineError, match=r"^probabilities that are not finite$"):
            asyncio.run(judged(replace(plan, reward=Broken)))
        with pytest.raises(DeadlineError, match="reward did not judge within 2 s"):
            asyncio.run(judged(replace(plan, reward=Slow)))
        with pytest.raises(ModelError, match="no label"):
            asyncio.run(judged(replace(plan, reward=refused)))
        assert asyncio.run(start_fleet(replace(plan, reward=None), config, SupervisionConfig())).reward is None


@pytest.mark.ray
def test_a_reward_that_is_killed_is_replaced_and_judges_what_it_had_in_hand(tmp_path: Path) -> None:
    class Marked(FakeReward):
        """Waits while its process is the first."""

        async def judge(self, answers: Sequence[Answer]) -> list[float]:
            if len(list(tmp_path.iterdir())) == 0:
                (tmp_path / str(os.getpid())).touch()
                await asyncio.sleep(60)
            return await super().judge(answers)

    config = ClusterConfig(num_cpus_per_sampler=0, num_cpus_per_teacher=0, num_cpus_learner=0)
    plan = FleetPlan(RolePlan(FakeSampler), {"teacher": RolePlan(FakeTeacher)}, FakeLearner, 50, Marked)

    async def killed() -> None:
        fleet = await start_fleet(plan, config, SupervisionConfig(restart_backoff_s=0.1))
        pool = fleet.reward
        assert pool is not None
        former = pool.slots[0].place["pid"]
        async with beside(pool.supervise()):
            judging = asyncio.create_task(pool.call(methodcaller("judge", ANSWERS), "judge"))
            await until(lambda: (tmp_path / str(former)).exists())
            os.kill(int(former), signal.SIGKILL)
            assert await judging == [3.0, 1.0]
        assert pool.slots[0].place["pid"] != former
        assert pool.slots[0].num_restarts == 1
        await fleet.close()

    with ray_session(config):
        asyncio.run(killed())
