"""Slow and lying parts in real actors, around which an asynchronous ring keeps its pace and its promises."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.internal_api import memory_summary

from gkd_dist.closing import Closing
from gkd_dist.cluster.placement import FleetPlan, RolePlan, start_fleet
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.job import Job, distil
from gkd_dist.replay.ledger import Ledger, StepEntry
from gkd_dist.supervision.health import Reason, State
from gkd_dist.supervision.together import beside, gather_all
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import Prompt, SamplingParams, StepReport, TrainBatch, Trajectory, VersionRange
from tests.mock_engines import Folder, asked
from tests.rings import BATCH, make_job, make_plan

pytestmark = pytest.mark.ray
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

STALENESS = 2
MOST_ROWS = (STALENESS + 1) * BATCH
CONFIG = ClusterConfig(
    num_cpus_per_sampler=0,
    num_cpus_per_teacher=0,
    num_cpus_learner=0,
    request_timeout_s=60,
    startup_timeout_s=120,
    object_store_bytes=80_000_000,
)
RULES = SupervisionConfig(probe_interval_s=10, probe_timeout_s=9)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_session(CONFIG):
        yield


class PacedSampler(FakeSampler):
    """Takes its time for every request, one after the other.

    Args:
        slowdown: of the replica that finds no file `slow` in the folder, and makes it.
    """

    def __init__(self, path: Path, request_s: float, slowdown: float = 1.0) -> None:
        super().__init__()
        self._folder = Folder(path)
        self._turn = asyncio.Lock()
        self._request_s = request_s * (slowdown if slowdown > 1 and _claim(path, "slow") else 1)

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        await self._folder.ask("sample")
        async with self._turn:
            await asyncio.sleep(self._request_s)
        return await super().sample(prompts, params)


class LyingSampler(FakeSampler):
    """The replica that finds no file `liar` says that other versions wrote its samples."""

    def __init__(self, path: Path, offset: int) -> None:
        super().__init__()
        self._folder = Folder(path)
        self._offset = offset if _claim(path, "liar") else 0

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        await self._folder.ask("sample")
        version = max(0, self.policy_version + self._offset)
        answers = await super().sample(prompts, params)
        return [replace(answer, versions=VersionRange(version, version)) for answer in answers]


class PacedLearner(FakeLearner):
    def __init__(self, step_s: float, restart: int) -> None:
        super().__init__(f"fake-{restart}")
        self._step_s = step_s

    async def train(self, batch: TrainBatch) -> StepReport:
        await asyncio.sleep(self._step_s)
        report = await super().train(batch)
        self.batches[-1] = None  # type: ignore[call-overload]  # its targets must not outlive the step
        return report


def _claim(path: Path, word: str) -> bool:
    """Whether this process is the one; it leaves its pid."""
    try:
        with (path / word).open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def requests(path: Path) -> dict[int, int]:
    """By process of a sampler."""
    pids = [int(file.name.removeprefix("started-")) for file in path.glob("started-*")]
    return {pid: asked(path, pid) for pid in pids}


@asynccontextmanager
async def parts(
    path: Path,
    make_sampler: Callable[[], FakeSampler],
    *,
    num_samplers: int = 1,
    step_s: float = 0.0,
    hidden_size: int = 4,
    rules: SupervisionConfig = RULES,
) -> AsyncIterator[Fleet]:
    """A fleet that is up."""
    path.mkdir(exist_ok=True)
    plan = FleetPlan(
        RolePlan(make_sampler, num_samplers),
        {"teacher": RolePlan(partial(FakeTeacher, hidden_size))},
        partial(PacedLearner, step_s),
        128,
    )
    async with Closing(await start_fleet(plan, CONFIG, rules)) as fleet:
        yield fleet


def job_of(path: Path, fleet: Fleet, steps: int, rules: SupervisionConfig = RULES) -> Job:
    plan = make_plan(steps, 0.5, whole_steps=False, max_staleness=STALENESS, replay_capacity=MOST_ROWS)
    return make_job(plan, fleet, path, rules=rules)


def turn(
    path: Path,
    make_sampler: Callable[[], FakeSampler],
    *,
    steps: int = 12,
    rules: SupervisionConfig = RULES,
    watch: Callable[[Job], Coroutine[Any, Any, None]] | None = None,
    **of_parts: Any,
) -> Job:
    """An asynchronous job to its end, and what it was; `watch` runs beside it."""

    async def run() -> Job:
        async with parts(path, make_sampler, rules=rules, **of_parts) as fleet:
            job = job_of(path, fleet, steps, rules)
            async with beside(*([watch(job)] if watch else [])):
                await asyncio.wait_for(distil(job), 120)
            return job

    return asyncio.run(run())


def trained(path: Path) -> list[StepEntry]:
    return [entry for entry in Ledger(path / "ledger.jsonl").entries() if isinstance(entry, StepEntry)]


def step_of(job: Job) -> int:
    return 0 if job.stage.ring is None else job.stage.ring.progress.step


async def _result(task: asyncio.Task[Any]) -> Any:
    return await task


@pytest.mark.fault(35)
def test_a_straggler_takes_little_of_the_work_and_costs_no_pace(tmp_path: Path) -> None:
    """Two good samplers and one that is 20 times slower, beside two good ones alone: they share machine and time."""
    num_steps = 40
    rules = RULES.model_copy(update={"hedge_after_s": 0.5})
    alone, beside_straggler = tmp_path / "alone", tmp_path / "with straggler"

    async def race() -> tuple[int, int]:
        """Steps of both at the moment when the first is done."""
        async with (
            parts(alone, partial(PacedSampler, alone, 0.1), num_samplers=2, rules=rules) as first,
            parts(
                beside_straggler, partial(PacedSampler, beside_straggler, 0.1, 20), num_samplers=3, rules=rules
            ) as second,
        ):
            jobs = [job_of(alone, first, num_steps, rules), job_of(beside_straggler, second, num_steps, rules)]
            running = [asyncio.create_task(distil(job)) for job in jobs]
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED, timeout=120)
            steps = step_of(jobs[0]), step_of(jobs[1])
            await asyncio.wait_for(gather_all([_result(task) for task in running]), 120)
            return steps

    num_alone, num_beside = asyncio.run(race())
    assert num_beside >= 0.8 * num_alone
    by_pid = requests(beside_straggler)
    slow = by_pid.pop(int((beside_straggler / "slow").read_text()))
    assert 1 <= slow <= 0.25 * min(by_pid.values())
    assert max(sequence.staleness for entry in trained(beside_straggler) for sequence in entry.sequences) <= STALENESS


@pytest.mark.fault(20)
def test_a_slow_learner_stops_its_samplers_and_nothing_piles_up(tmp_path: Path) -> None:
    """Targets of 1.3 MB each, 160 of them, through a store of 80 MB: only what is in flight is held."""
    moments: list[tuple[int, int]] = []
    """Rows that wait for the learner, and rows on their way there."""

    async def watch(job: Job) -> None:
        while True:
            ring = job.stage.ring
            if ring is not None:
                moments.append((ring.replay.depth, len(ring.intake.in_flight)))
            await asyncio.sleep(0.01)

    steps = 40
    sampler = partial(PacedSampler, tmp_path, 0.0)
    job = turn(tmp_path, sampler, steps=steps, step_s=0.1, hidden_size=1 << 16, watch=watch)
    assert max(map(sum, moments)) <= MOST_ROWS
    full = (MOST_ROWS - BATCH, 0)  # a batch is with the learner: its places are free when its weights are live
    assert moments.count(full) > len(moments) / 10, "the samplers had to pause: the witness"
    assert "Spilled" not in memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    num_student = sum(job.plan.mixture.num_student(step) for step in range(steps))
    assert sum(requests(tmp_path).values()) == num_student


@pytest.mark.fault(21)
def test_a_learner_waits_for_slow_samplers_longer_than_the_watchdog_does(tmp_path: Path) -> None:
    rules = RULES.model_copy(update={"stall_timeout_s": 5.0})
    idle: list[float] = []

    async def watch(job: Job) -> None:
        while True:
            idle.append(job.accounts.idle_s())
            await asyncio.sleep(0.05)

    turn(tmp_path, partial(PacedSampler, tmp_path, 0.5), steps=8, rules=rules, watch=watch)
    assert len(trained(tmp_path)) == 8  # 16 requests of half a second in a row: above the timeout
    assert max(idle) < 5.0


@pytest.mark.fault(36)
@pytest.mark.parametrize("offset", [9, -9])
def test_a_sampler_that_writes_with_other_versions_than_it_should_have_is_replaced(tmp_path: Path, offset: int) -> None:
    """The first one lies as soon as there are versions to lie about; what comes instead does not."""
    job = turn(tmp_path, partial(LyingSampler, tmp_path, offset), num_samplers=2, steps=40, step_s=0.05)
    entries = trained(tmp_path)
    assert [entry.step for entry in entries] == list(range(40))
    sequences = [(entry.step, each) for entry in entries for each in entry.sequences]
    assert all(
        step - STALENESS <= each.versions.oldest <= each.versions.newest <= step
        for step, each in sequences
        if each.versions
    )
    deaths = [event for event in job.fleet.samplers.events if event.to_state is State.DEAD]
    assert [event.reason for event in deaths] == [Reason.OBLIGATION]
    assert "live on every sampler" in deaths[0].detail
