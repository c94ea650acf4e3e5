"""A node that is lost or frozen, and one that comes: a head and a second raylet on this machine."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from gkd_dist.cluster.placement import FleetPlan, Launchers, RolePlan
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import LostTargetsError, ResourceError
from gkd_dist.interfaces import Teacher
from gkd_dist.pipeline.learning import train_batch
from gkd_dist.supervision.health import Reason, State
from gkd_dist.supervision.pool import Pool
from gkd_dist.testing.fakes import FakeLearner
from gkd_dist.types import SamplingParams, ScoredTrajectory, TeacherScore
from tests import tiny
from tests.mock_engines import MockLearner, MockSampler, MockTeacher, is_gone, running, until

pytestmark = pytest.mark.ray

CONFIG = ClusterConfig(address="auto", num_cpus_per_sampler=1, request_timeout_s=60, startup_timeout_s=8)
RULES = SupervisionConfig(
    probe_interval_s=1.0, probe_timeout_s=0.9, restart_backoff_s=0.5, max_restarts=3, max_restart_backoff_s=1.0
)
PROMPTS = tiny.prompts([2, 3, 4, 5])
HEALTH = {"health_check_period_ms": 500, "health_check_timeout_ms": 500, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv("RAY_worker_niceness", "0")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000, "_system_config": HEALTH},
        )
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@asynccontextmanager
async def two_samplers(cluster: Cluster, path: Path) -> AsyncIterator[tuple[Pool[Any], Any, int]]:
    """One on each node; the second node, and the slot whose sampler is there."""
    node = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    plan = FleetPlan(RolePlan(partial(MockSampler, path), 2), {}, FakeLearner, 128)
    launcher = Launchers(plan, CONFIG, RULES).samplers()
    pool = Pool("sampler", launcher, RULES, target=2)
    async with running(pool, path):
        (slot,) = [index for index, each in pool.serving.items() if each.place.node == node.node_id]
        yield pool, node, slot


async def samples(pool: Pool[Any]) -> int:
    params = SamplingParams(max_new_tokens=3)
    return len(await pool.spread(PROMPTS, lambda sampler, share: sampler.sample(share, params)))


@pytest.mark.fault(14)
def test_a_lost_node_leaves_the_others_at_work_until_one_comes(cluster: Cluster, tmp_path: Path) -> None:
    async def work() -> None:
        async with two_samplers(cluster, tmp_path) as (pool, node, slot):
            cluster.remove_node(node, allow_graceful=False)
            assert await samples(pool) == len(PROMPTS)
            await until(lambda: any(event.reason is Reason.NO_ROOM for event in pool.events))
            assert pool.states[slot] is not State.RETIRED
            assert await samples(pool) == len(PROMPTS)
            new = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
            await until(lambda: len(pool.serving) == 2)
            assert pool.serving[slot].place.node == new.node_id
            assert await samples(pool) == len(PROMPTS)
        cluster.remove_node(new, allow_graceful=False)

    asyncio.run(work())


@pytest.mark.fault(15)
def test_a_frozen_node_is_given_up_and_leaves_no_process(cluster: Cluster, tmp_path: Path) -> None:
    async def work() -> None:
        async with two_samplers(cluster, tmp_path) as (pool, node, slot):
            frozen = pool.serving[slot].place.process.pid
            raylet = node.all_processes["raylet"][0].process.pid
            os.kill(raylet, signal.SIGSTOP)
            os.kill(frozen, signal.SIGSTOP)
            assert await samples(pool) == len(PROMPTS)
            await until(lambda: is_gone(frozen))
            await until(lambda: len(pool.serving) == 1)
            assert await samples(pool) == len(PROMPTS)
            os.kill(raylet, signal.SIGKILL)

    asyncio.run(work())


@pytest.mark.fault(14)
def test_targets_that_went_with_their_node_are_told_from_a_lost_learner(cluster: Cluster, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"num_cpus_per_teacher": 1.0, "num_cpus_learner": 1.0, "startup_timeout_s": 60.0})
    # Megabytes: small results travel inside messages and cannot be lost.
    teachers: dict[str, RolePlan[Teacher]] = {"teacher": RolePlan(partial(MockTeacher, tmp_path, 1 << 17))}
    plan = FleetPlan(RolePlan(partial(MockSampler, tmp_path)), teachers, partial(MockLearner, tmp_path), 128)
    trajectories = tiny.trajectories([(2, 3), (4, 1)])

    async def work() -> None:
        launchers = Launchers(plan, config, RULES)
        learner = await launchers.learner().start(0)  # takes the only CPU of the head
        node = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
        teacher = await launchers.teachers("teacher").start(0)
        assert teacher.place is not None
        assert teacher.place.node == node.node_id
        targets = await teacher.score(trajectories)
        scored = [
            ScoredTrajectory(trajectory, (TeacherScore("teacher", each),))
            for trajectory, each in zip(trajectories, targets, strict=True)
        ]
        cluster.remove_node(node, allow_graceful=False)
        with pytest.raises(LostTargetsError, match="learner could not train: an object is gone with its node"):
            await learner.train(train_batch(0, scored))
        await learner.ping()
        learner.kill()
        teacher.kill()

    asyncio.run(work())


def test_an_actor_without_room_says_what_is_missing(cluster: Cluster, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"num_cpus_per_sampler": 64.0, "startup_timeout_s": 2.0})
    plan = FleetPlan(RolePlan(partial(MockSampler, tmp_path)), {}, FakeLearner, 128)
    with pytest.raises(ResourceError, match=r"no node had room for sampler 0 .*CPU: 64 wanted, . free"):
        asyncio.run(Launchers(plan, config, RULES).samplers().start(0))
