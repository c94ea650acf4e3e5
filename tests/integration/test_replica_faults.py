"""Replicas in real actors that die, hang, lie and refuse: their pool goes on, replaces them and leaves no process."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gkd_dist.cluster.placement import FleetPlan, Launchers, RolePlan
from gkd_dist.cluster.proxies import SamplerProxy
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import EngineError
from gkd_dist.interfaces import Teacher
from gkd_dist.supervision.health import Reason, State
from gkd_dist.supervision.pool import Pool
from gkd_dist.testing.fakes import FakeLearner
from gkd_dist.types import SamplingParams, Trajectory
from tests import tiny
from tests.mock_engines import MockSampler, MockTeacher, asked, is_gone, pid_of, processes, running, until

pytestmark = pytest.mark.ray

CONFIG = ClusterConfig(
    num_cpus_per_sampler=0, num_cpus_per_teacher=0, num_cpus_learner=0, request_timeout_s=60, startup_timeout_s=120
)
RULES = SupervisionConfig(
    probe_interval_s=1.0, probe_timeout_s=0.9, restart_backoff_s=0.1, max_restarts=2, role_loss_grace_s=90
)
PARAMS = SamplingParams(max_new_tokens=5)
PROMPTS = tiny.prompts([2, 3, 4, 5, 3, 2])
NUM_IDS = 128


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_session(CONFIG):
        yield


def launchers(path: Path, config: ClusterConfig = CONFIG) -> Launchers:
    teachers: dict[str, RolePlan[Teacher]] = {"teacher": RolePlan(partial(MockTeacher, path))}
    return Launchers(FleetPlan(RolePlan(partial(MockSampler, path)), teachers, FakeLearner, NUM_IDS), config, RULES)


def with_samplers(path: Path, work: Callable[[Pool[Any]], Awaitable[None]], config: ClusterConfig = CONFIG) -> None:
    async def run() -> None:
        pool = Pool("sampler", launchers(path, config).samplers(), RULES, target=2)
        async with running(pool, path):
            await asyncio.wait_for(work(pool), 200)

    asyncio.run(run())


def with_teachers(path: Path, work: Callable[[Pool[Any]], Awaitable[None]]) -> None:
    async def run() -> None:
        pool = Pool("teacher", launchers(path).teachers("teacher"), RULES, target=2)
        async with running(pool, path):
            await asyncio.wait_for(work(pool), 200)

    asyncio.run(run())


async def sample(pool: Pool[Any]) -> list[Trajectory]:
    return await pool.spread(PROMPTS, lambda sampler, share: sampler.sample(share, PARAMS))


def complete(trajectories: list[Trajectory]) -> bool:
    return [item.sample_id for item in trajectories] == [prompt.sample_id for prompt in PROMPTS]


def deaths(pool: Pool[Any]) -> list[Reason]:
    return [event.reason for event in pool.events if event.to_state is State.DEAD]


async def healed(pool: Pool[Any], former: int) -> int:
    """The pid of the replica that came instead of process `former` in slot 0."""
    await until(lambda: len(pool.serving) == 2 and pid_of(pool, 0) != former)
    return pid_of(pool, 0)


@pytest.mark.fault(35)
def test_a_request_that_nobody_waits_for_is_dropped_by_the_engine_too(tmp_path: Path) -> None:
    async def work(pool: Pool[Any]) -> None:
        (tmp_path / "hold").touch()
        request = asyncio.create_task(sample(pool))
        await until(lambda: all(asked(tmp_path, pid_of(pool, slot)) for slot in range(2)))
        request.cancel()
        await until(lambda: len(list(tmp_path.glob("cancelled-*"))) == 2)
        (tmp_path / "hold").unlink()
        assert complete(await sample(pool)), "both replicas go on"

    with_samplers(tmp_path, work)


@pytest.mark.fault(1)
def test_a_sampler_killed_in_the_middle_loses_no_prompt_and_comes_back_with_current_weights(tmp_path: Path) -> None:
    learner = FakeLearner()

    async def work(pool: Pool[Any]) -> None:
        learner._first = 3
        publication = await learner.publish()
        await pool.bring_up(lambda sampler: sampler.load_weights(publication))
        victim, other = pid_of(pool, 0), pid_of(pool, 1)
        (tmp_path / "hold").touch()
        sampling = asyncio.create_task(sample(pool))
        await until(lambda: asked(tmp_path, victim) and asked(tmp_path, other))
        os.kill(victim, signal.SIGKILL)
        (tmp_path / "hold").unlink()
        assert complete(await sampling)
        assert asked(tmp_path, victim) == 1
        assert asked(tmp_path, other) == 2
        new = await healed(pool, victim)
        assert len(deaths(pool)) == 1
        trajectories = await sample(pool)
        assert asked(tmp_path, new) == 1
        assert {item.versions.oldest for item in trajectories if item.versions} == {3}

    with_samplers(tmp_path, work)


@pytest.mark.fault(2)
def test_an_engine_that_dies_in_its_child_is_replaced_with_its_parent(tmp_path: Path) -> None:
    async def work(pool: Pool[Any]) -> None:
        parent = pid_of(pool, 0)
        os.kill(int((tmp_path / f"child-{parent}").read_text()), signal.SIGKILL)
        await healed(pool, parent)
        assert deaths(pool) == [Reason.PROBE]
        assert complete(await sample(pool))

    with_samplers(tmp_path, work)


@pytest.mark.fault(3)
def test_a_sampler_killed_while_idle_is_found_by_a_probe(tmp_path: Path) -> None:
    async def work(pool: Pool[Any]) -> None:
        victim = pid_of(pool, 0)
        os.kill(victim, signal.SIGKILL)
        new = await healed(pool, victim)
        assert deaths(pool) == [Reason.PROBE]
        assert asked(tmp_path, victim) == asked(tmp_path, new) == 0

    with_samplers(tmp_path, work)


@pytest.mark.fault(4)
def test_a_frozen_sampler_is_replaced_and_its_processes_are_ended(tmp_path: Path) -> None:
    async def work(pool: Pool[Any]) -> None:
        victim = pid_of(pool, 0)
        child = int((tmp_path / f"child-{victim}").read_text())
        sampling = asyncio.create_task(sample(pool))
        os.kill(victim, signal.SIGSTOP)
        os.kill(child, signal.SIGSTOP)
        assert complete(await sampling)
        await healed(pool, victim)
        assert len(deaths(pool)) == 1
        await until(lambda: is_gone(victim) and is_gone(child))

    with_samplers(tmp_path, work)


@pytest.mark.fault(4)
def test_a_sampler_that_answers_pings_loads_weights_and_never_finishes_is_replaced(tmp_path: Path) -> None:
    learner = FakeLearner()

    async def work(pool: Pool[Any]) -> None:
        victim = pid_of(pool, 0)
        (tmp_path / f"hold-{victim}").touch()
        while not deaths(pool):
            assert complete(await sample(pool))
            learner._first += 1
            publication = await learner.publish()
            await pool.bring_up(methodcaller("load_weights", publication))
        assert asked(tmp_path, victim) == RULES.failures_to_condemn
        await healed(pool, victim)
        assert deaths(pool) == [Reason.REQUEST]
        assert complete(await sample(pool))

    with_samplers(tmp_path, work, CONFIG.model_copy(update={"request_timeout_s": 2.0}))


@pytest.mark.fault(5)
def test_a_sampler_that_never_starts_again_is_retired_and_the_others_go_on(tmp_path: Path) -> None:
    async def work(pool: Pool[Any]) -> None:
        (tmp_path / "refuse").touch()
        os.kill(pid_of(pool, 0), signal.SIGKILL)
        await until(lambda: pool.states[0] is State.RETIRED)
        assert deaths(pool).count(Reason.START) == RULES.max_restarts
        assert "this engine does not start" in [event.detail for event in pool.events if event.slot == 0][-1]
        assert complete(await sample(pool))
        assert pool.states[1] is State.HEALTHY

    with_samplers(tmp_path, work)


@pytest.mark.fault(13)
def test_a_sampler_that_dies_while_it_loads_weights_holds_up_nobody(tmp_path: Path) -> None:
    learner = FakeLearner()

    async def work(pool: Pool[Any]) -> None:
        learner._first = 5
        publication = await learner.publish()
        victim, other = pid_of(pool, 0), pid_of(pool, 1)
        (tmp_path / f"die-in-load-{victim}").touch()
        await pool.bring_up(lambda sampler: sampler.load_weights(publication))
        assert is_gone(victim)
        assert [replica.place.process.pid for replica in pool.serving.values()] == [other]
        assert {item.versions.newest for item in await sample(pool) if item.versions} == {5}
        await healed(pool, victim)
        assert {item.versions.oldest for item in await sample(pool) if item.versions} == {5}
        assert deaths(pool) == [Reason.OBLIGATION]

    with_samplers(tmp_path, work)


TRAJECTORIES = tiny.trajectories([(2, 3), (4, 1), (1, 6), (3, 2)])


async def score(pool: Pool[Any]) -> list[int]:
    targets = await pool.spread(TRAJECTORIES, lambda teacher, share: teacher.score(share))
    return [each.num_tokens for each in targets]


LENGTHS = [item.num_completion_tokens for item in TRAJECTORIES]


@pytest.mark.fault(7)
@pytest.mark.fault(8)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_dead_or_frozen_teacher_was_to_score_is_scored_elsewhere(tmp_path: Path, sent: signal.Signals) -> None:
    async def work(pool: Pool[Any]) -> None:
        victim, other = pid_of(pool, 0), pid_of(pool, 1)
        (tmp_path / "hold").touch()
        scoring = asyncio.create_task(score(pool))
        await until(lambda: asked(tmp_path, victim) and asked(tmp_path, other))
        os.kill(victim, sent)
        (tmp_path / "hold").unlink()
        assert await scoring == LENGTHS
        assert asked(tmp_path, other) == 2
        await healed(pool, victim)
        assert len(deaths(pool)) == 1
        await until(lambda: is_gone(victim))

    with_teachers(tmp_path, work)


@pytest.mark.fault(9)
def test_a_teacher_that_answers_wrongly_is_asked_once_and_another_one_then(tmp_path: Path) -> None:
    async def work(pool: Pool[Any]) -> None:
        liar, honest = pid_of(pool, 0), pid_of(pool, 1)
        (tmp_path / f"lie-{liar}").touch()
        assert await score(pool) == LENGTHS
        assert (asked(tmp_path, liar), asked(tmp_path, honest)) == (1, 2)

    with_teachers(tmp_path, work)


@pytest.mark.fault(4)
def test_a_stopped_actor_answers_no_ping_and_is_ended_with_its_child(tmp_path: Path) -> None:
    async def work() -> None:
        launcher = launchers(tmp_path).samplers()
        replica: SamplerProxy = await launcher.start(0)
        pid = launcher.describe(replica)["pid"]
        await launcher.probe(replica)
        os.kill(int(pid), signal.SIGSTOP)
        with pytest.raises(Exception, match="no answer to a ping within"):
            await launcher.probe(replica)
        await launcher.kill(replica)
        await launcher.kill(replica)  # again does no harm
        await until(lambda: all(map(is_gone, processes(tmp_path))))

    asyncio.run(work())


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    plan = FleetPlan(RolePlan(partial(MockSampler, tmp_path)), {}, FakeLearner, num_ids=4)

    async def work() -> None:
        launcher = Launchers(plan, CONFIG, RULES).samplers()
        replica = await launcher.start(0)
        prompts = [type(PROMPTS[0])(PROMPTS[0].sample_id, np.asarray([40], np.int32))]
        try:
            with pytest.raises(EngineError, match=r"sampler 0 answered .* wrongly: id 44 is outside the vocabulary"):
                await replica.sample(prompts, PARAMS)
        finally:
            await launcher.kill(replica)

    asyncio.run(work())
