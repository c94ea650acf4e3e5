"""A run that goes back to an older checkpoint: nothing of the steps that are void comes back."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.supervision import CheckpointConfig
from gkd_dist.errors import DeadlineError, EngineError
from gkd_dist.interfaces import Journal
from gkd_dist.local import LocalJournal
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.checkpointing import Checkpointer
from gkd_dist.pipeline.durability import Durability
from gkd_dist.pipeline.progress import Progress
from gkd_dist.pipeline.recovery import Recovered, recover
from gkd_dist.pipeline.ring import Plan
from gkd_dist.replay.ledger import Ledger, StepEntry, TrainedSequence
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from gkd_dist.types import Kept, SampleId, ScoredTrajectory, Source, TeacherScore
from tests.fleets import fleet_of
from tests.rings import BATCH, make_plan


def plan_of() -> Plan:
    return make_plan(9, 1.0, whole_steps=False, max_staleness=2, replay_capacity=3 * BATCH)


def durability_of(folder: Path, journal: Journal | None = None) -> Durability:
    return Durability(
        CheckpointStore(folder / "checkpoints", 2),
        Ledger(folder / "ledger.jsonl"),
        CheckpointConfig(),
        0,
        journal or LocalJournal(folder / "journal"),
    )


async def scored(plan: Plan, index: int, version: int) -> ScoredTrajectory:
    (trajectory,) = await FakeSampler(version).sample([plan.stream.prompt(index)], plan.sampling)
    (targets,) = await FakeTeacher().score([trajectory])
    return ScoredTrajectory(trajectory, (TeacherScore("teacher", targets),))


async def recovered(
    plan: Plan, durability: Durability, learner: FakeLearner, narrate: Callable[[str], None] = lambda _: None
) -> Recovered:
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner)
    return await recover(plan, fleet, durability, narrate, weights_are_live=True)


async def checkpoint(durability: Durability, step: int) -> None:
    """As a start without a journal's help would write it, whose steps each trained on one pair."""
    progress = Progress("test", step)
    for each in range(step):
        sample_id = SampleId("test", 100 + each)
        pair = TrainedSequence(sample_id, 0, Source.GROUND_TRUTH, None, ("teacher",), 1, 0)
        durability.ledger.append(StepEntry(each, 0, 0.0, 0, (pair,)))
        progress.trained.add(sample_id)
    learner = FakeLearner("second")
    learner._first = step
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner)
    accounts = StepAccounts(max_steps=9, metrics=FakeMetrics(), sinks=[])
    writer = Checkpointer(durability.store, fleet, durability.ledger, durability.config, accounts, durability.journal)
    await writer.now(progress)


@pytest.mark.fault(22)
def test_the_journal_brings_back_nothing_that_weights_wrote_which_are_gone(tmp_path: Path) -> None:
    """Start 1 dies at version 3 without a checkpoint; row 9 was written by its version 2. Start 2 goes on from 0 and
    has a checkpoint at its own version 2. Start 3 must not train on row 9."""

    async def turn() -> None:
        plan, journal = plan_of(), LocalJournal(tmp_path / "journal")
        await journal.append([await scored(plan, 9, 2), await scored(plan, 8, 0)])
        await journal.close()
        second = durability_of(tmp_path)
        waiting = (await recovered(plan, second, FakeLearner("second"))).waiting
        assert [group[0].trajectory.sample_id.prompt_index for group in waiting] == [8]
        await checkpoint(second, 2)
        await second.journal.close()
        third = await recovered(plan, durability_of(tmp_path), FakeLearner("third"))
        assert third.progress.step == 2
        assert [group[0].trajectory.sample_id.prompt_index for group in third.waiting] == [8]

    asyncio.run(turn())


@pytest.mark.fault(22)
@pytest.mark.parametrize("empties", [True, False])
def test_a_journal_that_cannot_be_rewritten_is_emptied_or_ends_the_run(tmp_path: Path, empties: bool) -> None:
    class Full(LocalJournal):
        async def keep_only(self, wanted, progressed=lambda: None):
            if wanted or not empties:
                raise OSError(28, "No space left on device")
            await super().keep_only(wanted, progressed)

    async def turn() -> None:
        plan, journal = plan_of(), Full(tmp_path / "journal")
        await journal.append([await scored(plan, 9, 0)])
        if not empties:
            with pytest.raises(EngineError, match="run the same command again"):
                await recovered(plan, durability_of(tmp_path, journal), FakeLearner())
            return
        assert len((await recovered(plan, durability_of(tmp_path, journal), FakeLearner())).waiting) == 1
        assert (await journal.read()).scored == []

    asyncio.run(turn())


@pytest.mark.fault(22)
@pytest.mark.fault(29)
def test_records_that_are_damaged_or_cut_off_are_counted_by_file_and_said_once(tmp_path: Path) -> None:
    async def turn() -> None:
        plan, folder = plan_of(), tmp_path / "journal"
        for indices in ((0, 1), (2, 3)):
            journal = LocalJournal(folder)
            await journal.append([await scored(plan, index, 0) for index in indices])
            await journal.close()
        first, second = sorted(folder.iterdir())
        data = bytearray(first.read_bytes())
        data[-1] ^= 1
        first.write_bytes(data)
        second.write_bytes(second.read_bytes()[:-1])
        said: list[str] = []
        waiting = (await recovered(plan, durability_of(tmp_path), FakeLearner(), said.append)).waiting
        assert [group[0].trajectory.sample_id.prompt_index for group in waiting] == [0, 2]
        assert said == [
            f"the journal lost 2 record(s) that are damaged or cut off ({first.name}: 1 checksum; {second.name}: 1 "
            "torn); what they held is sampled and scored again where it is needed",
            "2 scored sequences come from the journal",
        ]
        said.clear()
        await recovered(plan, durability_of(tmp_path), FakeLearner(), said.append)
        assert said == ["2 scored sequences come from the journal"]

    asyncio.run(turn())


def test_a_journal_that_cannot_be_read_is_said_and_the_run_goes_on(tmp_path: Path) -> None:
    class Broken(LocalJournal):
        async def read(self, finished: object = frozenset(), progressed: object = None) -> Kept:
            raise DeadlineError("journal did not go on to read its files within 600 s")

    async def turn() -> None:
        said: list[str] = []
        durability = durability_of(tmp_path, Broken(tmp_path / "journal"))
        assert (await recovered(plan_of(), durability, FakeLearner(), said.append)).waiting == []
        assert said == [
            "the journal cannot be read, what it kept is sampled and scored again: journal did not go on to read its "
            "files within 600 s"
        ]

    asyncio.run(turn())
