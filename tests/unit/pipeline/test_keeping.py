"""A journal slower than the ring: what waits for it is bounded, and nobody waits for it long."""

import asyncio
import logging
from pathlib import Path

import pytest

from gkd_dist.errors import EngineError, LostTargetsError
from gkd_dist.local import LocalJournal
from gkd_dist.pipeline import keeping
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.replay.ledger import Ledger
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from gkd_dist.types import ScoredTrajectory, TeacherScore
from tests.fleets import fleet_of
from tests.rings import BATCH, make_plan


class Slow(LocalJournal):
    """Takes what it is given, and writes nothing until it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.goes_on = asyncio.Event()
        self.offered = 0
        self.under_way = 0

    async def append(self, scored):
        self.offered += len(scored)
        self.under_way += 1
        try:
            await self.goes_on.wait()
            await super().append(scored)
        finally:
            self.under_way -= 1


@pytest.mark.fault(32)
@pytest.mark.parametrize("at_the_end", ["writes", "hangs", "failed"])
def test_a_slow_journal_is_left_out_with_one_line_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at_the_end: str
) -> None:
    monkeypatch.setattr(keeping, "MAX_PENDING_BYTES", 1)
    monkeypatch.setattr(keeping, "LAST_APPENDS_S", 10.0 if at_the_end == "writes" else 0.05)

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
        assert journal.under_way == 0, "no append is under way"
        written = len((await journal.read()).scored)
        assert written == (journal.offered if at_the_end == "writes" else 0)
        assert journal.offered >= 1, "one append may be of any size"
        assert accounts.num_not_kept >= 4 * BATCH
        assert len([each for each in caplog.records if "slower than the ring" in each.message]) == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(turn())


class Full(LocalJournal):
    """On a disk without room."""

    async def append(self, scored):
        raise OSError("No space left on device")


def test_a_journal_that_always_fails_is_told_ever_more_seldom_and_counted_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def turn() -> int:
        plan = make_plan(12, 1.0, whole_steps=False, max_staleness=1, replay_capacity=2 * BATCH)
        accounts = StepAccounts(max_steps=12, metrics=FakeMetrics(), sinks=[])
        fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner())
        journal = Full(tmp_path / "journal")
        await run_ring(make_ring(plan, fleet, accounts, ledger=Ledger(tmp_path / "ledger.jsonl"), journal=journal))
        return accounts.num_not_kept

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(turn()) >= 12 * BATCH
    told = [each.getMessage() for each in caplog.records if "did not get into the journal" in each.getMessage()]
    assert 2 <= len(told) <= 7
    assert "(failure no. 2)" in told[1]


def test_what_comes_while_a_call_is_under_way_goes_together_with_the_next(tmp_path: Path) -> None:
    async def check() -> None:
        calls, gates = [], [asyncio.Event() for _ in range(2)]

        class Gated(LocalJournal):
            async def append(self, scored):
                calls.append([item.trajectory.sample_id.prompt_index for item in scored])
                await gates[len(calls) - 1].wait()
                if len(calls) == 1:
                    raise EngineError("no room on the disk")
                await super().append(scored)

        plan = make_plan(6, 1.0)
        written = await FakeSampler().sample([plan.stream.prompt(index) for index in range(4)], plan.sampling)
        targets = await FakeTeacher().score(written)
        groups = [
            (ScoredTrajectory(each, (TeacherScore("teacher", told),)),)
            for each, told in zip(written, targets, strict=True)
        ]
        journal = Gated(tmp_path / "journal")
        keeper = keeping.Keeper(journal, StepAccounts(max_steps=6, metrics=FakeMetrics(), sinks=[]))
        keeper.keep(groups[:1])
        await asyncio.sleep(0)
        keeper.keep(groups[1:2])
        keeper.keep(groups[2:])
        assert calls == [[0]]
        for gate in gates:
            gate.set()
        await keeper.end()
        assert calls == [[0], [1, 2, 3]]
        assert [item.trajectory.sample_id.prompt_index for item in (await journal.read()).scored] == [1, 2, 3]
        found = (await journal.read({groups[2][0].trajectory.sample_id})).scored
        assert [item.trajectory.sample_id.prompt_index for item in found] == [1, 3]

    asyncio.run(check())


@pytest.mark.fault(22)
def test_targets_that_are_lost_cost_no_others(tmp_path: Path) -> None:
    """They went with their node, and others were to be written with them."""

    async def check() -> None:
        class Holed(LocalJournal):
            async def append(self, scored):
                if any(item.trajectory.sample_id.prompt_index == 1 for item in scored):
                    raise LostTargetsError("their node is gone")
                await super().append(scored)

        plan = make_plan(6, 1.0)
        written = await FakeSampler().sample([plan.stream.prompt(index) for index in range(4)], plan.sampling)
        targets = await FakeTeacher().score(written)
        accounts = StepAccounts(max_steps=6, metrics=FakeMetrics(), sinks=[])
        journal = Holed(tmp_path / "journal")
        keeper = keeping.Keeper(journal, accounts)
        keeper.keep(
            [
                (ScoredTrajectory(each, (TeacherScore("teacher", told),)),)
                for each, told in zip(written, targets, strict=True)
            ]
        )
        await keeper.end()
        assert [item.trajectory.sample_id.prompt_index for item in (await journal.read()).scored] == [0, 2, 3]
        assert accounts.num_not_kept == 1
        await journal.close()

    asyncio.run(check())
