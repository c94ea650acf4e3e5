"""Plans and rings over fakes."""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.config.supervision import CheckpointConfig, SupervisionConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.data.prompts import PromptStream, RenderedRow
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Metrics
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.durability import Durability
from gkd_dist.pipeline.job import Job
from gkd_dist.pipeline.ring import Plan
from gkd_dist.pipeline.stage import Stage
from gkd_dist.replay.ledger import Ledger
from gkd_dist.testing.fakes import FakeMetrics, FakeSink
from gkd_dist.types import SamplingParams

BATCH = 4


def make_plan(
    max_steps: int,
    student_fraction: float,
    mix: str = "per_sequence",
    save_steps: int = 0,
    sentinel_steps: Mapping[str, int] | None = None,
    **more: Any,
) -> Plan:
    """A plan over ten rows; `more` replaces fields."""
    rows = [
        RenderedRow(np.asarray([number + 3, number + 4], np.int32), np.asarray([7, 8, 1], np.int32))
        for number in range(10)
    ]
    fields: dict[str, Any] = {
        "run": "test",
        "stream": PromptStream(rows, run="test", seed=0, shuffle=True),
        "mixture": Mixture(student_fraction, mix, ScheduleConfig(), batch_size=BATCH, seed=0, max_steps=max_steps),
        "sampling": SamplingParams(max_new_tokens=5),
        "batch_size": BATCH,
        "max_steps": max_steps,
        "whole_steps": True,
        "max_staleness": 0,
        "max_uses": 1,
        "replay_capacity": BATCH,
        "save_steps": save_steps,
        "sentinel_steps": sentinel_steps or {},
        "students": Path("students"),
    }
    return Plan(**fields | more)


def run(plan: Plan, fleet: Fleet, **more: Any) -> tuple[FakeMetrics, FakeSink]:
    """Turn the ring to its end; `more` goes to `make_ring`."""
    metrics, sink = FakeMetrics(), FakeSink()
    accounts = StepAccounts(max_steps=plan.max_steps, metrics=metrics, sinks=[sink])

    async def turn() -> None:
        with tempfile.TemporaryDirectory() as folder:
            fields = {"ledger": Ledger(Path(folder) / "ledger.jsonl")} | more
            await asyncio.wait_for(run_ring(make_ring(plan, fleet, accounts, **fields)), timeout=20)

    asyncio.run(turn())
    return metrics, sink


def make_job(
    plan: Plan, fleet: Fleet, folder: Path, metrics: Metrics | None = None, *, save_steps: int = 0, **more: Any
) -> Job:
    """A job that keeps everything in `folder`, with a checkpoint every `save_steps`; `more` replaces fields."""
    metrics = metrics or FakeMetrics()
    fields: dict[str, Any] = {
        "plan": plan,
        "fleet": fleet,
        "accounts": StepAccounts(max_steps=plan.max_steps, metrics=metrics, sinks=[]),
        "durability": Durability(
            CheckpointStore(folder / "checkpoints", 2),
            Ledger(folder / "ledger.jsonl"),
            CheckpointConfig(save_steps=save_steps),
            attempt=0,
        ),
        "rules": SupervisionConfig(),
        "held_out": None,
        "metrics": metrics,
        "final": folder / "final",
        "diagnosis": folder / "diagnosis.json",
        "stop": asyncio.Event(),
        "stage": Stage(),
        "narrate": lambda _: None,
    }
    return Job(**fields | more)
