"""A journal slower than the ring: what waits for it is bounded, and nobody waits for it long."""

import asyncio
import logging
from pathlib import Path

import pytest

from gkd_dist.errors import EngineError
from gkd_dist.local import LocalJournal
from gkd_dist.pipeline import ring as rings
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.replay.ledger import Ledger
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from tests.fleets import fleet_of
from tests.rings import BATCH, make_plan


class Slow(LocalJournal):
    """Takes what it is given, and writes nothing until it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.goes_on = asyncio.Event()
        self.offered = 0

    async def append(self, scored):
        self.offered += len(scored)
        await self.goes_on.wait()
        await super().append(scored)


@pytest.mark.fault(32)
@pytest.mark.parametrize("at_the_end", ["writes", "hangs", "failed"])
def test_a_slow_journal_is_left_out_with_one_line_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at_the_end: str
) -> None:
    monkeypatch.setattr(rings, "MAX_PENDING_BYTES", 1)
    monkeypatch.setattr(rings, "LAST_APPENDS_S", 10.0 if at_the_end == "writes" else 0.05)

    async def turn() -> None:
        journal = Slow(tmp_path / "journal")

        class Last(FakeLearner):
            async def train(self, batch):
                if batch.step == 5 and at_the_end == "writes":
                    journal.goes_on.set()
                if batch.step == 5 and at_the_end == "failed":
                    raise EngineError("the learner failed")
                return await super().train(batch)

        plan = make_plan(6, 1.0, whole_steps=False, max_staleness=1, replay_capacity=2 * BATCH)
        metrics = FakeMetrics()
        accounts = StepAccounts(max_steps=6, metrics=metrics, sinks=[])
        fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, Last())
        ring = make_ring(plan, fleet, accounts, ledger=Ledger(tmp_path / "ledger.jsonl"), journal=journal)
        if at_the_end == "failed":
            with pytest.raises(EngineError, match="the learner failed"):
                await asyncio.wait_for(run_ring(ring), 5)
        else:
            await asyncio.wait_for(run_ring(ring), 5)
        assert not ring.kept, "no append is under way"
        written = len(await journal.read())
        assert written == (journal.offered if at_the_end == "writes" else 0)
        assert journal.offered >= 1, "one append may be of any size"
        assert accounts.num_not_kept >= 4 * BATCH
        assert len([each for each in caplog.records if "slower than the ring" in each.message]) == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(turn())
