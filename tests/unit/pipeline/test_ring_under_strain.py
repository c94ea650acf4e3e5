"""Schedules that are rare and must not end a run, or end it otherwise than they should."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.config.supervision import CheckpointConfig, SupervisionConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.errors import EngineError, LearnerLostError, RoleLostError, StoppedError
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.checkpointing import Checkpointer
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.job import distil
from gkd_dist.pipeline.progress import Progress
from gkd_dist.replay.ledger import Ledger
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from gkd_dist.types import SampleId, VersionRange
from tests.fleets import fleet_of
from tests.rings import BATCH, make_job, make_plan, run


def async_plan(max_steps, max_staleness=1, **more):
    capacity = BATCH * max(2, max_staleness + 1)
    fields = {"whole_steps": False, "max_staleness": max_staleness, "replay_capacity": capacity}
    return make_plan(max_steps, more.pop("student_fraction", 1.0), **fields | more)


def ring_of(plan, fleet, folder, **more):
    accounts = StepAccounts(max_steps=plan.max_steps, metrics=FakeMetrics(), sinks=[])
    more = {"ledger": Ledger(folder / "ledger.jsonl")} | more
    return make_ring(plan, fleet, accounts, **more)


def test_a_sample_of_the_newest_weights_is_welcome_while_another_sampler_still_loads_them(tmp_path: Path) -> None:
    """Stop while version 1 has reached sampler 0 and not yet sampler 1: must be StoppedError (75)."""

    async def turn():
        loaded, slow = asyncio.Event(), asyncio.Event()
        answered = asyncio.Event()

        class Quick(FakeSampler):
            async def load_weights(self, publication):
                version = await super().load_weights(publication)
                loaded.set()
                return version

            async def sample(self, prompts, params):
                if self.policy_version == 0 and len(self.calls) >= 2:
                    self.calls.append(list(prompts))
                    await loaded.wait()
                    answered.set()
                    return [self._answer(prompt, params) for prompt in prompts]
                return await super().sample(prompts, params)

        class Slow(FakeSampler):
            async def load_weights(self, publication):
                await slow.wait()
                return await super().load_weights(publication)

        class Learner(FakeLearner):
            async def train(self, batch):
                ring.stop.set()  # SIGTERM in the middle of the step
                return await super().train(batch)

            async def write_snapshot(self, folder):
                await asyncio.sleep(0.2)  # a checkpoint takes a while
                await super().write_snapshot(folder)

        fleet = fleet_of([Quick(), Slow()], {"teacher": [FakeTeacher()]}, Learner())
        accounts = StepAccounts(max_steps=9, metrics=FakeMetrics(), sinks=[])
        ledger = Ledger(tmp_path / "ledger.jsonl")
        checkpointer = Checkpointer(CheckpointStore(tmp_path / "c", 2), fleet, ledger, CheckpointConfig(), accounts)
        ring = make_ring(async_plan(9), fleet, accounts, ledger=ledger, checkpointer=checkpointer)
        with pytest.raises(StoppedError):
            await asyncio.wait_for(run_ring(ring), 5)
        assert answered.is_set()

    asyncio.run(turn())


def test_the_last_publication_may_reach_samplers_one_after_the_other(tmp_path: Path) -> None:
    """max_uses=2: rows are still on their way when the last weights go out."""

    class Quick(FakeSampler):
        async def sample(self, prompts, params):
            if self.policy_version or prompts[0].sample_id.prompt_index >= 6:
                while self.policy_version < 3:  # written in part by the last version
                    await asyncio.sleep(0)
            return await super().sample(prompts, params)

    class Slow(FakeSampler):
        async def load_weights(self, publication):
            for _ in range(200):
                await asyncio.sleep(0)
            return await super().load_weights(publication)

    plan, learner = async_plan(3, 2, max_uses=3), FakeLearner()
    run(plan, fleet_of([Quick(), Slow()], {"teacher": [FakeTeacher()]}, learner))
    assert [batch.step for batch in learner.batches] == [0, 1, 2]


def test_the_ledger_numbers_every_use_and_knows_no_more_than_max_uses(tmp_path: Path) -> None:
    class Slow(FakeSampler):
        """After one batch, for so long that the learner would use them at every step."""

        async def sample(self, prompts, params):
            for _ in range(1000 if prompts[0].sample_id.prompt_index >= BATCH else 0):
                await asyncio.sleep(0)
            return await super().sample(prompts, params)

    ledger = Ledger(tmp_path / "ledger.jsonl")
    fleet = fleet_of([Slow()], {"teacher": [FakeTeacher()]}, FakeLearner())
    run(async_plan(12, 4, max_uses=3), fleet, ledger=ledger)
    uses: dict[SampleId, list[int]] = {}
    for step in range(12):
        entry = ledger.entry(step)
        assert entry is not None
        for sequence in entry.sequences:
            uses.setdefault(sequence.sample_id, []).append(sequence.use)
    assert all(found == list(range(1, len(found) + 1)) for found in uses.values())
    assert max(map(len, uses.values())) == 3, "used as often as allowed, and no more"


def test_one_row_that_always_fails_does_not_end_the_run_at_its_last_step(tmp_path: Path) -> None:
    calls = []

    class Poison(FakeSampler):
        """An engine error, such as the reward's or a memory error, for one row alone."""

        async def sample(self, prompts, params):
            await asyncio.sleep(0)
            if any(prompt.sample_id.prompt_index == 5 for prompt in prompts):
                calls.append(1)
                raise EngineError("boom")
            return await super().sample(prompts, params)

    learner = FakeLearner()
    progress, ledger = Progress("test"), Ledger(tmp_path / "ledger.jsonl")
    fleet = fleet_of([Poison()], {"teacher": [FakeTeacher()]}, learner)
    metrics, _ = run(async_plan(12, 1), fleet, progress=progress, ledger=ledger)
    assert learner.policy_version == 12
    assert [(each.sample_id.prompt_index, each.reason) for each in ledger.dropped()] == [(5, "lost")]
    assert metrics.calls.count(("count", "gkd_samples_dropped_total", 1, {"reason": "lost"})) == 1
    assert SampleId("test", 5) in progress.dropped and len(calls) == SupervisionConfig().infra_attempts


@pytest.mark.fault(6)
@pytest.mark.parametrize("lost", ["sampler", "teacher"])
def test_a_role_that_is_lost_ends_the_run_at_once_and_costs_no_row(lost: str, tmp_path: Path) -> None:
    """The pool has waited for supervision.role_loss_grace_s before it says so."""
    num_asked = 0

    class Gone(FakeSampler, FakeTeacher):
        async def sample(self, prompts, params):
            return await self._ask()

        async def score(self, trajectories):
            return await self._ask()

        async def _ask(self):
            nonlocal num_asked
            num_asked += 1
            await asyncio.sleep(0)
            raise RoleLostError(f"no {lost} is left")

    samplers = [Gone()] if lost == "sampler" else [FakeSampler()]
    teachers = [Gone()] if lost == "teacher" else [FakeTeacher()]
    ledger, progress = tmp_path / "ledger.jsonl", Progress("test")
    mixture = Mixture(1.0, "per_sequence", ScheduleConfig(), batch_size=1, seed=0, max_steps=4)
    plan = async_plan(4, 0, batch_size=1, replay_capacity=1, mixture=mixture)  # one row at a time
    with pytest.raises(RoleLostError, match=f"no {lost} is left"):
        run(plan, fleet_of(samplers, {"teacher": teachers}, FakeLearner()), ledger=Ledger(ledger), progress=progress)
    assert num_asked == 1
    assert not ledger.exists() and not progress.dropped


def test_a_learner_that_dies_while_it_is_restored_is_replaced_as_often_as_allowed(tmp_path: Path) -> None:
    class Mortal(FakeLearner):
        async def train(self, batch):
            raise LearnerLostError("killed")

    class Stillborn(FakeLearner):
        async def publish(self):
            raise LearnerLostError("killed")

    heirs = [FakeLearner("c"), Stillborn("b")]

    async def replace(former):
        return heirs.pop()

    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, Mortal("a"))
    fleet.replace_learner = replace
    asyncio.run(distil(make_job(make_plan(3, 1.0), fleet, tmp_path, rules=SupervisionConfig(max_learner_restarts=3))))
    assert heirs == [] and fleet.learner.saved == [tmp_path / "final"]


def test_a_run_whose_samplers_are_lost_keeps_its_last_step(tmp_path: Path) -> None:
    """Row 6 of the matrix: grace, then a checkpoint, exit 70."""
    from gkd_dist.errors import RoleLostError

    class Lost(FakeSampler):
        async def sample(self, prompts, params):
            if self.policy_version >= 3:
                raise RoleLostError("no sampler is left")
            return await super().sample(prompts, params)

    fleet = fleet_of([Lost()], {"teacher": [FakeTeacher()]}, FakeLearner())
    job = make_job(make_plan(9, 1.0), fleet, tmp_path, save_steps=20)
    with pytest.raises(RoleLostError):
        asyncio.run(distil(job))
    assert job.durability.store.newest() is not None


def test_a_dropped_prompt_counts_once_also_after_a_resume(tmp_path: Path) -> None:
    progress = Progress("test")
    progress.dropped.update(SampleId("test", 3, repeat) for repeat in range(4))  # one row, as `drop` writes it
    ring = ring_of(make_plan(3, 1.0), fleet_of([FakeSampler()], {}, FakeLearner()), tmp_path, progress=progress)
    assert ring.budgets.num_dropped == 1


def test_a_long_answer_is_trained_on_before_the_end(tmp_path: Path) -> None:
    learner = FakeLearner()
    calls = []

    class Sampler(FakeSampler):
        async def sample(self, prompts, params):
            first = self.policy_version
            answers = await super().sample(prompts, params)
            if prompts[0].sample_id.prompt_index == 2:
                calls.append(first)
                until = self.policy_version + 3  # an answer of four steps
                for _ in range(2000):
                    if self.policy_version >= until:
                        break
                    await asyncio.sleep(0)
                return [
                    dataclasses.replace(each, versions=VersionRange(first, self.policy_version)) for each in answers
                ]
            return answers

    run(async_plan(40, 2), fleet_of([Sampler()], {"teacher": [FakeTeacher()]}, learner))
    at = [b.step for b in learner.batches for s in b.scored if s.trajectory.sample_id.prompt_index == 2]
    print("row 2 trained at", at, "generated", len(calls))
    assert at[0] < 20


def test_a_stall_ends_the_run_also_where_the_diagnosis_cannot_be_written(tmp_path: Path) -> None:
    """A full disk is what stalls runs."""
    from gkd_dist.errors import StalledError
    from gkd_dist.pipeline.watchdog import Watchdog

    async def turn():
        async with Watchdog("training", lambda: 99.0, 0.1, tmp_path / "no-such-folder" / "d.json", dict):
            await asyncio.sleep(2)

    with pytest.raises(StalledError):
        asyncio.run(turn())
