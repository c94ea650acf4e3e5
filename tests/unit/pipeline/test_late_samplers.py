"""A run whose samplers do not all load new weights in time."""

import asyncio
from pathlib import Path

import pytest

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.replay.ledger import Ledger
from gkd_dist.supervision.pool import Pool
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from gkd_dist.types import WeightPublication
from tests.fleets import fleet_of
from tests.rings import BATCH, make_plan


class Hangs(FakeSampler):
    """Answers everything but `load_weights`."""

    async def load_weights(self, publication: WeightPublication) -> int:
        return await asyncio.Future()


class Launcher:
    """Of two samplers, one of which hangs."""

    async def start(self, slot: int) -> FakeSampler:
        return Hangs() if slot == 1 else FakeSampler()

    async def probe(self, replica: FakeSampler) -> None:
        await replica.ping()

    async def kill(self, replica: FakeSampler) -> None:
        await replica.close()

    def waits_for(self, slot: int) -> str:
        return ""

    def describe(self, replica: FakeSampler) -> dict[str, str | int]:
        return {}


@pytest.mark.fault(13)
@pytest.mark.parametrize("whole_steps", [True, False])
def test_a_sampler_that_hangs_while_it_loads_weights_does_not_stop_the_run(whole_steps: bool, tmp_path: Path) -> None:
    async def turn() -> None:
        learner = FakeLearner()
        pool: Pool[FakeSampler] = Pool("sampler", Launcher(), SupervisionConfig(catch_up_timeout_s=0.05), target=2)
        fleet = Fleet(pool, fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner).teachers, learner)
        accounts = StepAccounts(max_steps=6, metrics=FakeMetrics(), sinks=[])
        capacity = BATCH if whole_steps else 2 * BATCH
        plan = make_plan(6, 1.0, whole_steps=whole_steps, max_staleness=int(not whole_steps), replay_capacity=capacity)
        await pool.start()
        supervision = asyncio.create_task(pool.supervise())
        try:
            await asyncio.wait_for(
                run_ring(make_ring(plan, fleet, accounts, ledger=Ledger(tmp_path / "ledger.jsonl"))), 20
            )
        finally:
            supervision.cancel()
            await pool.close()
        assert learner.policy_version == 6

    asyncio.run(turn())
