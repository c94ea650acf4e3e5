"""The real ring over engines of `elastic_parts.py`: in this process, or as actors of a cluster of its own."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from elastic_parts import CountingLearner, InProcess, Pace, TimedSampler, TimedTeacher

from gkd_dist.closing import Closing
from gkd_dist.cluster.journal import start_journal
from gkd_dist.cluster.placement import FleetPlan, RolePlan, start_fleet
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.data.prompts import PromptStream, RenderedRow
from gkd_dist.errors import StoppedError
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Journal
from gkd_dist.local import local_journal
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.metrics.sinks import JsonlSink
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.ring import Plan, Ring
from gkd_dist.pipeline.stage import Stage
from gkd_dist.pipeline.steering import Steering
from gkd_dist.replay.ledger import Ledger
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.supervision.pool import Pool
from gkd_dist.supervision.together import beside
from gkd_dist.types import SamplingParams

PROMPT_TOKENS, NEW_TOKENS, HIDDEN = 16, 16, 64
"""Small on purpose: what is measured is control, not payload."""
ENDLESS = 1_000_000


@dataclass(frozen=True)
class Settings:
    """Of one ring."""

    batch_size: int
    max_staleness: int
    token_s: float = 0.0
    """Of a sampler per token it writes; a teacher takes half of it per token it reads, and reads twice as many."""
    journal: bool = False
    num_generations: int = 1
    """Sequences of a request."""
    max_steps: int = ENDLESS


@dataclass(frozen=True)
class Turning:
    """A ring while it turns."""

    ring: Ring
    pace: Pace
    diary: Path
    """Folder of `elastic_parts.Diary`."""
    run: Path
    """Its run directory."""

    @property
    def samplers(self) -> Pool[Any]:
        return self.ring.fleet.samplers  # type: ignore[return-value]

    @property
    def teachers(self) -> Pool[Any]:
        return self.ring.fleet.teachers["teacher"]  # type: ignore[return-value]


def make_plan(settings: Settings) -> Plan:
    rows = [RenderedRow(np.arange(3, 3 + PROMPT_TOKENS, dtype=np.int32) + row % 50, None) for row in range(1000)]
    batch_size, max_steps = settings.batch_size, settings.max_steps
    return Plan(
        run="elastic",
        stream=PromptStream(rows, run="elastic", seed=0, shuffle=True),
        mixture=Mixture(
            1.0,
            "per_sequence",
            ScheduleConfig(),
            batch_size=batch_size,
            seed=0,
            max_steps=max_steps,
            num_generations=settings.num_generations,
        ),
        sampling=SamplingParams(max_new_tokens=NEW_TOKENS),
        batch_size=batch_size,
        max_steps=max_steps,
        whole_steps=False,
        max_staleness=settings.max_staleness,
        max_uses=1,
        replay_capacity=max(2, settings.max_staleness + 1) * batch_size,
        save_steps=0,
        sentinel_steps={},
        students=Path("students"),
    )


def make_whole(settings: Settings, fleet: Fleet, folder: Path, exporter: Exporter, journal: Journal | None) -> Turning:
    """With everything that a run writes but checkpoints: metrics, records, ledger and, if asked for, journal."""
    pace = Pace()
    sinks = [pace, JsonlSink(folder / "metrics.jsonl")]
    accounts = StepAccounts(max_steps=settings.max_steps, metrics=exporter, sinks=sinks)
    ring = make_ring(make_plan(settings), fleet, accounts, ledger=Ledger(folder / "ledger.jsonl"), journal=journal)
    return Turning(ring, pace, folder, folder)


async def turn_in_process(settings: Settings, num_replicas: int) -> Pace:
    """All steps of `settings` over engines that cost nothing, in supervised pools."""
    exporter, rules = Exporter(), SupervisionConfig()
    samplers = Pool("sampler", InProcess(partial(TimedSampler, 0.0)), rules, target=num_replicas, metrics=exporter)
    teachers = Pool(
        "teacher", InProcess(partial(TimedTeacher, 0.0, HIDDEN)), rules, target=num_replicas, metrics=exporter
    )
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await asyncio.gather(samplers.start(), teachers.start())
        fleet = Fleet(samplers, {"teacher": teachers}, CountingLearner())
        await stack.enter_async_context(Closing(fleet))
        journal = await stack.enter_async_context(local_journal(folder / "journal")) if settings.journal else None
        whole = make_whole(settings, fleet, folder, exporter, journal)
        async with beside(samplers.supervise(), teachers.supervise()):
            await run_ring(whole.ring)
    return whole.pace


@asynccontextmanager
async def turning_on_ray(settings: Settings, num_replicas: int) -> AsyncIterator[Turning]:
    """A ring that turns beside the block, with so many samplers and teachers as actors, and answers `gkd scale`."""
    cluster = ClusterConfig(
        num_cpus_per_sampler=0, num_cpus_per_teacher=0, num_cpus_learner=0, object_store_bytes=256 << 20
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = load_run_config("tiny", ["student.model=none", "teacher.model=none", "cluster.mode=ray", "mode=async"])
        directory = RunDirectory.create(folder, "elastic")
        attempt = stack.enter_context(Attempt(directory))
        directory.write_config(dump_run_config(config))
        stack.enter_context(ray_session(cluster))
        plan = FleetPlan(
            RolePlan(partial(TimedSampler, settings.token_s, folder), num_replicas),
            {"teacher": RolePlan(partial(TimedTeacher, settings.token_s / 2, HIDDEN, folder), num_replicas)},
            CountingLearner,
            num_ids=128,
        )
        exporter = Exporter()
        async with AsyncExitStack() as parts:
            fleet = await start_fleet(plan, cluster, SupervisionConfig(), exporter)
            await parts.enter_async_context(Closing(fleet))
            journal = None
            if settings.journal:
                journal = await start_journal(folder / "journal", cluster.request_timeout_s)
                await parts.enter_async_context(Closing(journal))
            whole = make_whole(settings, fleet, folder, exporter, journal)
            whole = Turning(whole.ring, whole.pace, folder, directory.path)
            stage = Stage("training", whole.ring)
            steering = Steering(config, directory, fleet, whole.ring.accounts, stage, attempt.number)
            works = [run_ring(whole.ring), whole.samplers.supervise(), whole.teachers.supervise(), steering.attend()]
            with suppress(StoppedError):
                async with beside(*works):
                    yield whole
