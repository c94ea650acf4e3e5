"""Prompts that were given up, over a resume."""

import asyncio
from pathlib import Path

import pytest

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.supervision import CheckpointConfig
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.checkpointing import Checkpointer
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.durability import Durability
from gkd_dist.pipeline.intake import Row
from gkd_dist.pipeline.recovery import recover
from gkd_dist.pipeline.sampling import drop
from gkd_dist.replay.groups import Kind
from gkd_dist.replay.ledger import Ledger
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from gkd_dist.types import SampleId
from tests.fleets import fleet_of
from tests.rings import BATCH, make_plan


def test_one_that_was_given_up_between_a_step_and_its_checkpoint_stays_in_the_ledger(tmp_path: Path) -> None:
    async def turn() -> None:
        class Learner(FakeLearner):
            async def publish(self):
                if self.policy_version == 2:  # the step is in the ledger, its checkpoint has not begun
                    ring.intake.in_flight.add(Row(77, Kind.STUDENT))
                    drop(ring, Row(77, Kind.STUDENT), "lost")
                return await super().publish()

        def fleet(learner: FakeLearner):
            return fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner)

        plan = make_plan(3, 1.0, whole_steps=False, max_staleness=1, replay_capacity=2 * BATCH)
        durability = Durability(
            CheckpointStore(tmp_path / "checkpoints", 2),
            Ledger(tmp_path / "ledger.jsonl"),
            CheckpointConfig(save_steps=2),
            0,
        )
        first = fleet(Learner())
        accounts = StepAccounts(max_steps=3, metrics=FakeMetrics(), sinks=[])
        each = Checkpointer(durability.store, first, durability.ledger, durability.config, accounts)
        ring = make_ring(plan, first, accounts, ledger=durability.ledger, checkpointer=each)
        await asyncio.wait_for(run_ring(ring), 5)
        await each.settle()
        recovered = await recover(plan, fleet(FakeLearner("1")), durability, lambda _: None, weights_are_live=True)
        assert recovered.progress.step == 2
        assert SampleId("test", 77) in recovered.progress.dropped
        assert [entry.sample_id.prompt_index for entry in durability.ledger.dropped()] == [77]

    asyncio.run(turn())


def test_one_that_the_ledger_cannot_take_is_in_no_checkpoint(tmp_path: Path) -> None:
    class Full(Ledger):
        def append(self, entry: object) -> None:
            raise OSError(28, "No space left on device")

    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner())
    accounts = StepAccounts(max_steps=3, metrics=FakeMetrics(), sinks=[])
    ring = make_ring(make_plan(3, 1.0), fleet, accounts, ledger=Full(tmp_path / "ledger.jsonl"))
    with pytest.raises(OSError, match="No space left"):
        drop(ring, Row(77, Kind.STUDENT), "lost")
    assert len(ring.progress.dropped) == 0
