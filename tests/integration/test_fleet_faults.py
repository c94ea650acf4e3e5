"""Learner, driver, journal and object store in real actors: what survives whom."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray
from ray._private.internal_api import memory_summary

from gkd_dist.cluster.headers import framed
from gkd_dist.cluster.journal import LastingJournal, start_journal
from gkd_dist.cluster.placement import FleetPlan, Launchers, RolePlan, start_fleet
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import LearnerLostError, ModelError
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.learning import train_batch
from gkd_dist.pipeline.scoring import score
from gkd_dist.testing.fakes import FakeLearner, FakeTeacher
from gkd_dist.types import Kept, SampleId, ScoredTrajectory, TeacherScore
from tests import tiny
from tests.mock_engines import MockLearner, MockSampler, MockTeacher, asked, is_gone, processes, until

pytestmark = pytest.mark.ray

CONFIG = ClusterConfig(
    num_cpus_per_sampler=0,
    num_cpus_per_teacher=0,
    num_cpus_learner=0,
    request_timeout_s=60,
    startup_timeout_s=120,
    object_store_bytes=80_000_000,
)
RULES = SupervisionConfig()
TRAJECTORIES = tiny.trajectories([(2, 3), (4, 1), (1, 6)])


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_session(CONFIG):
        yield


def plan_of(path: Path) -> FleetPlan:
    return FleetPlan(
        RolePlan(partial(MockSampler, path)),
        {"teacher": RolePlan(partial(MockTeacher, path))},
        partial(MockLearner, path),
        128,
    )


def pid_of_learner(fleet: Fleet) -> int:
    return int(fleet.learner.place.process.pid)  # type: ignore[attr-defined]


@pytest.mark.fault(10)
@pytest.mark.fault(12)
def test_a_dead_learner_is_renewed_and_what_it_published_stays(tmp_path: Path) -> None:
    async def work() -> None:
        fleet = await start_fleet(plan_of(tmp_path), CONFIG, RULES)
        publication = await fleet.learner.publish()
        victim = pid_of_learner(fleet)
        scored = await score(fleet, TRAJECTORIES)
        (tmp_path / "hold").touch()
        training = asyncio.create_task(fleet.learner.train(train_batch(0, scored)))
        await until(lambda: asked(tmp_path, victim))
        await fleet.learner.ping()  # answers while it trains
        folder = tmp_path / "snapshot"
        folder.mkdir()
        await fleet.learner.write_snapshot(folder)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(LearnerLostError, match="learner died while asked to train"):
            await training
        (tmp_path / "hold").unlink()
        with pytest.raises(LearnerLostError):
            await fleet.learner.snapshot()
        await fleet.renew_learner()
        assert pid_of_learner(fleet) != victim
        assert await fleet.learner.restore(folder) == 0
        assert (await fleet.learner.train(train_batch(0, scored))).policy_version == 1
        await fleet.samplers.bring_up(lambda sampler: sampler.load_weights(publication))
        assert len(fleet.samplers.serving) == 1
        await fleet.close()
        await until(lambda: all(map(is_gone, processes(tmp_path))))

    asyncio.run(work())


def test_a_failing_start_leaves_nothing_running(tmp_path: Path) -> None:
    def refused(_: int) -> FakeLearner:
        raise ModelError("no such student")

    async def work() -> None:
        with pytest.raises(ModelError, match="no such student"):
            await start_fleet(replace(plan_of(tmp_path), learner=refused), CONFIG, RULES)
        await until(lambda: all(map(is_gone, processes(tmp_path))))

    asyncio.run(work())


@pytest.mark.fault(22)
def test_a_journal_that_is_silent_is_ended_and_what_it_was_asked_is_written_by_the_next(tmp_path: Path) -> None:
    async def work() -> None:
        targets = await FakeTeacher().score(TRAJECTORIES)
        header, num_bytes, frame = framed(
            [
                ScoredTrajectory(each, (TeacherScore("teacher", told),))
                for each, told in zip(TRAJECTORIES, targets, strict=True)
            ]
        )
        scored = header.with_handles([ray.put(frame)], num_bytes)
        first = await start_journal(tmp_path / "journal", 60)
        journal = LastingJournal(first, partial(start_journal, tmp_path / "journal", 60))
        await journal.append(scored[:2])
        victim = int(journal.places[0]["pid"])
        first._timeout_s = 1.0
        os.kill(victim, signal.SIGSTOP)
        await journal.append(scored[1:])  # one of them a second time
        await until(lambda: is_gone(victim))
        assert journal.places[0]["pid"] != victim
        found = (await journal.read()).scored
        assert sorted(item.trajectory.sample_id for item in found) == [item.sample_id for item in TRAJECTORIES]
        await journal.sync()
        await journal.close()

    asyncio.run(work())


def test_the_journal_keeps_trajectories_whose_payload_the_driver_never_saw(tmp_path: Path) -> None:
    async def work() -> None:
        fleet = await start_fleet(plan_of(tmp_path), CONFIG, RULES)
        scored = await score(fleet, TRAJECTORIES)
        journal = await start_journal(tmp_path / "journal", 60)
        assert (await journal.read()).scored == []
        await journal.append(scored[:2])
        await journal.append(scored[2:])
        await journal.sync()
        journal.kill()
        again = await start_journal(tmp_path / "journal", 60)
        found = (await again.read()).scored
        again.kill()  # what it read outlives it
        assert [item.trajectory.sample_id for item in found] == [item.sample_id for item in TRAJECTORIES]
        assert [item.scores[0].targets.num_bytes for item in found] == [
            item.scores[0].targets.num_bytes for item in scored
        ]
        report = await fleet.learner.train(train_batch(0, found))
        assert report.num_sequences == 3
        third = await start_journal(tmp_path / "journal", 60)
        await third.keep_only(frozenset({TRAJECTORIES[1].sample_id}))
        assert [item.trajectory.sample_id for item in (await third.read()).scored] == [TRAJECTORIES[1].sample_id]
        third._time_line -= 1  # as a call that was sent before
        await third.append(scored[:1])
        third._time_line += 1
        assert len((await third.read()).scored) == 1
        await third.forget({SampleId("test", index) for index in range(3)})
        assert await third.read() == Kept([], {})
        await third.close()
        await fleet.close()

    asyncio.run(work())


@pytest.mark.fault(19)
def test_large_targets_of_the_past_leave_the_object_store(tmp_path: Path) -> None:
    """60 times 6 MB through a store of 80 MB: what is no longer held is freed. What is held spills: the witness."""
    plan = replace(plan_of(tmp_path), teachers={"teacher": RolePlan(partial(MockTeacher, tmp_path, 1 << 18))})

    async def work() -> None:
        launcher = Launchers(plan, CONFIG, RULES).teachers("teacher")
        teacher = await launcher.start(0)
        for _ in range(60):
            targets = await teacher.score(TRAJECTORIES[2:])
            assert targets[0].num_bytes > 6_000_000
        address = ray.get_runtime_context().gcs_address  # there may be other clusters on this machine
        assert "Spilled" not in memory_summary(address, stats_only=True)
        held = [await teacher.score(TRAJECTORIES[2:]) for _ in range(20)]
        await until(lambda: "Spilled" in memory_summary(address, stats_only=True))
        assert len(held) == 20
        await launcher.kill(teacher)

    asyncio.run(work())


DRIVER = """
import asyncio, os, signal, sys
from functools import partial
from pathlib import Path
from gkd_dist.cluster.placement import start_fleet
from gkd_dist.cluster.session import ray_session
from tests.integration.test_fleet_faults import CONFIG, RULES, plan_of

async def main(path):
    fleet = await start_fleet(plan_of(path), CONFIG, RULES)
    os.kill(fleet.samplers.serving[0].place.process.pid, signal.SIGSTOP)
    (path / "up").touch()
    await asyncio.sleep(600)

with ray_session(CONFIG):
    asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.fault(17)
def test_a_killed_driver_leaves_no_process_behind_not_even_a_stopped_one(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], cwd=Path(__file__).parents[2])

    async def work() -> None:
        await until(lambda: (tmp_path / "up").exists() or driver.poll() is not None)
        assert driver.poll() is None
        driver.kill()
        driver.wait()
        actors = [int(file.name.removeprefix("started-")) for file in tmp_path.glob("started-*")]
        assert len(actors) == 3
        await until(lambda: all(map(is_gone, actors)))

    try:
        asyncio.run(work())
    finally:
        driver.kill()
        for child in tmp_path.glob("child-*"):  # plain `sleep`, which nobody told to end with its parent
            if not is_gone(int(child.read_text())):
                os.kill(int(child.read_text()), signal.SIGKILL)
