"""One controller of a simulation: the real ring, its pools and all that a run writes, over simulated engines."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gkd_dist.closing import Closing
from gkd_dist.config.load import load_run_config
from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.config.run import RunConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.data.prompts import PromptStream, RenderedRow
from gkd_dist.fleet import Fleet
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.ring import Plan, Ring
from gkd_dist.pipeline.stage import Stage
from gkd_dist.pipeline.steering import Steering
from gkd_dist.replay.ledger import Ledger
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.simulation.driver import Driver
from gkd_dist.simulation.engines import MOST_TOKENS, SimulatedLearner, SimulatedSampler, SimulatedTeacher
from gkd_dist.simulation.launcher import SimulatedLauncher
from gkd_dist.simulation.scenario import Scenario
from gkd_dist.simulation.weights import Distribution
from gkd_dist.supervision.pool import Pool
from gkd_dist.supervision.together import beside
from gkd_dist.types import SamplingParams

NUM_ROWS = 1000


@dataclass
class StepTimes:
    """Implements `interfaces.RecordSink`: when each step was over; `after` is called then with the number of steps."""

    after: Callable[[int], object] = lambda _: None
    times: list[float] = field(default_factory=list)

    def write(self, record: dict[str, float | int | str]) -> None:  # noqa: ARG002 - of the Protocol
        self.times.append(asyncio.get_running_loop().time())
        self.after(len(self.times))

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class Shard:
    """Everything of one controller."""

    ring: Ring
    driver: Driver
    samplers: SimulatedLauncher[SimulatedSampler]
    teachers: SimulatedLauncher[SimulatedTeacher]
    learner: SimulatedLearner
    steps: StepTimes
    steering: Steering | None
    targets: list[tuple[float, int]]
    """When the policy changed the number of samplers, and to what."""

    async def run(self) -> None:
        """All steps."""
        works = [pool.supervise() for pool in self.ring.fleet.pools.values()]
        if self.steering is not None:
            works.append(self.steering.attend())
        async with beside(*works):
            await run_ring(self.ring)


@asynccontextmanager
async def started(
    scenario: Scenario, number: int, folder: Path, distribution: Distribution, barrier: asyncio.Barrier
) -> AsyncIterator[Shard]:
    """Shard `number` with all its actors up; they end with the block."""
    share = scenario.num_shards
    clock = asyncio.get_running_loop().time
    driver, exporter, steps = Driver(scenario.driver), Exporter(), StepTimes()
    rules = SupervisionConfig(probe_interval_s=scenario.probe_interval_s, max_restarts=scenario.max_restarts)
    timeout_s, seed = scenario.request_timeout_s, f"{scenario.seed}/{number}"
    first_sampler = number * (scenario.num_samplers // share)

    def make_sampler(slot: int) -> SimulatedSampler:
        receive = partial(distribution.receive, sampler=first_sampler + slot)
        return SimulatedSampler(f"sampler {slot}", driver, timeout_s, scenario.sampler, receive, scenario.seed + number)

    def make_teacher(slot: int) -> SimulatedTeacher:
        return SimulatedTeacher(f"teacher {slot}", driver, timeout_s, scenario.teacher)

    samplers = SimulatedLauncher(make_sampler, scenario.lifetimes, f"{seed}/sampler")
    teachers = SimulatedLauncher(make_teacher, scenario.lifetimes, f"{seed}/teacher")
    first = scenario.num_samplers // share if scenario.scaling is None else scenario.scaling.first
    sampler_pool = Pool(
        "sampler",
        samplers,
        rules,
        target=first,
        max_ongoing=scenario.max_ongoing(scenario.sampler.max_running),
        clock=clock,
        metrics=exporter,
    )
    teacher_pool = Pool(
        "teacher",
        teachers,
        rules,
        target=scenario.num_teachers // share,
        max_ongoing=scenario.max_ongoing(1),
        clock=clock,
        metrics=exporter,
    )
    await asyncio.gather(sampler_pool.start(), teacher_pool.start())
    samplers.is_running = teachers.is_running = True
    learner = SimulatedLearner(driver, scenario.learner, barrier)
    fleet = Fleet(sampler_pool, {"teacher": teacher_pool}, learner)
    async with Closing(fleet):
        accounts = StepAccounts(max_steps=scenario.max_steps, metrics=exporter, sinks=[steps], clock=clock)
        directory = RunDirectory.create(folder, f"shard-{number}")
        plan = _plan(scenario, directory.path)
        ledger = Ledger(directory.path / "ledger.jsonl")
        ring = make_ring(plan, fleet, accounts, ledger=ledger, rules=rules)
        targets: list[tuple[float, int]] = []

        def tell(kind: str, **facts: Any) -> None:
            if kind == "scale":
                targets.append((clock(), int(facts["state"])))

        steering = None
        if scenario.has_housekeeping:
            stage = Stage("training", ring)
            steering = Steering(_config(scenario), directory, fleet, accounts, stage, attempt=1, tell=tell)
        try:
            yield Shard(ring, driver, samplers, teachers, learner, steps, steering, targets)
        finally:
            ledger.close()


def _plan(scenario: Scenario, folder: Path) -> Plan:
    batch_size = scenario.batch_size // scenario.num_shards
    prompts = np.arange(scenario.prompt_tokens, dtype=np.int32)
    rows = [RenderedRow(prompts, None)] * NUM_ROWS
    return Plan(
        run="simulated",
        stream=PromptStream(rows, run="simulated", seed=scenario.seed, shuffle=False),
        mixture=Mixture(
            1.0,
            "per_sequence",
            ScheduleConfig(),
            batch_size=batch_size,
            seed=scenario.seed,
            max_steps=scenario.max_steps,
            num_generations=scenario.num_generations,
        ),
        sampling=SamplingParams(max_new_tokens=min(scenario.sampler.max_tokens, MOST_TOKENS)),
        batch_size=batch_size,
        max_steps=scenario.max_steps,
        whole_steps=scenario.whole_steps,
        max_staleness=scenario.max_staleness,
        max_uses=1,
        replay_capacity=max(2, scenario.max_staleness + 1) * batch_size,
        save_steps=0,
        sentinel_steps={},
        students=folder / "students",
    )


def _config(scenario: Scenario) -> RunConfig:
    """What the scaling policy asks of a configuration."""
    overrides = ["student.model=none", "teacher.model=none", "cluster.mode=ray", "mode=async"]
    overrides += [f"learner.max_steps={scenario.max_steps}", f"replay.max_staleness={scenario.max_staleness}"]
    if scenario.scaling is not None:
        overrides += ["sampler.min_replicas=1", f"sampler.max_replicas={scenario.scaling.maximum}"]
    return load_run_config("tiny", overrides)
