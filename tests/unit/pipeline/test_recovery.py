"""Runs that stop, die or stall, and go on: what is trained once, and what is not done again."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.errors import EngineError, LearnerLostError, StalledError, StoppedError
from gkd_dist.fleet import Fleet
from gkd_dist.local import LocalJournal
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import _admit_all, make_ring
from gkd_dist.pipeline.job import Job, distil
from gkd_dist.replay.ledger import Ledger, StepEntry
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from gkd_dist.types import SampleId, ScoredTrajectory, StepReport, TeacherScore, TrainBatch
from tests.fleets import fleet_of
from tests.rings import BATCH, make_job, make_plan

STEPS = 10


class Mortal(FakeLearner):
    """Dies in the step of that number; where it is told of a folder, once a checkpoint is there."""

    def __init__(self, dies_at: int | None = None, run_epoch: str = "0", folder: Path | None = None) -> None:
        super().__init__(run_epoch)
        self._dies_at = dies_at
        self._folder = folder

    async def train(self, batch: TrainBatch) -> StepReport:
        if batch.step == self._dies_at:
            while self._folder is not None and not list(self._folder.glob("checkpoints/step-*/COMPLETE")):
                await asyncio.sleep(0.01)
            raise LearnerLostError("the learner died")
        await asyncio.sleep(0)
        return await super().train(batch)


def plan_of(*, whole_steps: bool = True):
    if whole_steps:
        return make_plan(STEPS, 0.5)
    return make_plan(STEPS, 0.5, whole_steps=False, max_staleness=2, replay_capacity=3 * BATCH)


def go(job: Job) -> None:
    asyncio.run(asyncio.wait_for(distil(job), timeout=20))


def trained(folder: Path) -> list[str]:
    entries = [entry for entry in Ledger(folder / "ledger.jsonl").entries() if isinstance(entry, StepEntry)]
    assert [entry.step for entry in entries] == list(range(len(entries)))
    return [str(sequence.sample_id) for entry in entries for sequence in entry.sequences]


def everything(num_steps: int = STEPS) -> list[str]:
    return sorted(f"test/{index}/0" for index in range(num_steps * BATCH))


@pytest.mark.fault(10)
@pytest.mark.parametrize("whole_steps", [True, False])
def test_another_learner_goes_on_from_the_last_checkpoint(tmp_path: Path, whole_steps: bool) -> None:
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, Mortal(dies_at=7, folder=tmp_path))
    said: list[str] = []

    async def replace_learner(former: object) -> FakeLearner:
        return Mortal(run_epoch="1")

    fleet.replace_learner = replace_learner
    go(make_job(plan_of(whole_steps=whole_steps), fleet, tmp_path, save_steps=2, narrate=said.append))
    assert isinstance(fleet.learner, Mortal)
    first = fleet.learner.batches[0].step
    assert 0 < first <= 6 and first % 2 == 0, "a checkpoint's step"
    assert fleet.learner.policy_version == STEPS
    assert sorted(trained(tmp_path)) == everything(), "the ledger knows each sequence once"
    assert any("starting another learner (1 of 1)" in line for line in said)


@pytest.mark.fault(10)
def test_without_a_checkpoint_it_begins_anew_and_then_gives_up(tmp_path: Path) -> None:
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, Mortal(dies_at=3))
    renewed: list[FakeLearner] = []

    async def replace_learner(former: object) -> FakeLearner:
        renewed.append(Mortal(dies_at=3, run_epoch="1"))
        return renewed[-1]

    fleet.replace_learner = replace_learner
    with pytest.raises(LearnerLostError):
        go(make_job(plan_of(), fleet, tmp_path))
    assert [batch.step for batch in renewed[0].batches] == [0, 1, 2]


def fleet_with(learner: FakeLearner) -> tuple[Fleet, FakeSampler, FakeTeacher]:
    sampler, teacher = FakeSampler(), FakeTeacher()
    return fleet_of([sampler], {"teacher": [teacher]}, learner), sampler, teacher


class StopsAt(FakeLearner):
    """Asks the run to stop while it trains a step."""

    def __init__(self, step: int, stop: asyncio.Event) -> None:
        super().__init__("0")
        self._stop_at = step
        self._stop = stop

    async def train(self, batch: TrainBatch) -> StepReport:
        if batch.step == self._stop_at:
            self._stop.set()
        return await super().train(batch)


@pytest.mark.fault(33)
@pytest.mark.parametrize("whole_steps", [True, False])
@pytest.mark.parametrize("step", [0, 4, STEPS - 1])
def test_a_stopped_run_keeps_its_last_step_and_goes_on(tmp_path: Path, whole_steps: bool, step: int) -> None:
    plan, stop = plan_of(whole_steps=whole_steps), asyncio.Event()
    fleet, _, _ = fleet_with(StopsAt(step, stop))
    with pytest.raises(StoppedError):
        go(make_job(plan, fleet, tmp_path, stop=stop))
    assert len(trained(tmp_path)) == (step + 1) * BATCH, "the step in progress was finished"
    fleet, _, _ = fleet_with(learner := FakeLearner("1"))
    go(make_job(plan, fleet, tmp_path))
    assert [batch.step for batch in learner.batches] == list(range(step + 1, STEPS))
    assert sorted(trained(tmp_path)) == everything()
    assert learner.saved == [tmp_path / "final"]


@pytest.mark.fault(22)
def test_what_the_journal_kept_is_neither_sampled_nor_scored_again(tmp_path: Path) -> None:
    plan = plan_of(whole_steps=False)

    def with_journal(fleet: Fleet, **more: object) -> Job:
        job = make_job(plan, fleet, tmp_path, **more)
        return replace(job, durability=replace(job.durability, journal=LocalJournal(tmp_path / "journal")))

    class Failing(FakeLearner):
        """Every step waits for the checkpoint before it, if there is one (a slow disk skips some); the last for what
        may be begun meanwhile, too."""

        begun = 0

        async def snapshot(self) -> int:
            self.begun = await super().snapshot()
            return self.begun

        async def train(self, batch: TrainBatch) -> StepReport:
            while self.begun == batch.step > 0 and not (tmp_path / f"checkpoints/step-{self.begun}/COMPLETE").exists():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # the save ends a little later than its marker
            if batch.step == 3:
                while sum(map(len, teacher.calls)) < 5 * BATCH:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)  # the journal's thread
                raise EngineError("out of memory")
            return await super().train(batch)

    fleet, sampler, teacher = fleet_with(Failing())
    with pytest.raises(EngineError, match="out of memory"):
        go(with_journal(fleet, save_steps=1))
    before = {id_ for call in sampler.calls for id_ in (str(prompt.sample_id) for prompt in call)}
    scored = {str(each.sample_id) for call in teacher.calls for each in call}
    done = set(trained(tmp_path))
    fleet, sampler, teacher = fleet_with(FakeLearner("1"))
    go(with_journal(fleet))
    again = {id_ for call in sampler.calls for id_ in (str(prompt.sample_id) for prompt in call)}
    scored_again = {str(each.sample_id) for call in teacher.calls for each in call}
    waiting = scored - done
    assert waiting, "there was work that no step had used"
    assert not again & before & waiting
    assert not scored_again & waiting
    assert sorted(trained(tmp_path)) == everything()


@pytest.mark.fault(23)
def test_a_run_in_which_nothing_ends_is_ended_with_a_diagnosis(tmp_path: Path) -> None:
    class Silent(FakeTeacher):
        async def score(self, trajectories):
            if len(self.calls) >= 3:
                await asyncio.sleep(3600)
            return await super().score(trajectories)

    fleet = fleet_of([FakeSampler()], {"teacher": [Silent()]}, FakeLearner())
    job = make_job(plan_of(), fleet, tmp_path, rules=SupervisionConfig(stall_timeout_s=0.5))
    with pytest.raises(StalledError, match=r"0\.5 s.*diagnosis.json"):
        go(job)
    diagnosis = json.loads((tmp_path / "diagnosis.json").read_text())
    assert diagnosis["step"] == 3 and diagnosis["in_flight"] and diagnosis["replicas"]["teacher"]["outstanding"]
    assert any("score" in line for stack in diagnosis["stacks"].values() for line in stack)
    assert job.durability.store.newest().step == 3, "a last checkpoint was made"
    assert diagnosis["last_checkpoint"] == 3


@pytest.mark.fault(31)
def test_checkpoints_that_cannot_be_written_end_the_run_after_some(tmp_path: Path) -> None:
    class Full(Mortal):
        """The first steps wait for the checkpoint before them."""

        num_failed = 0

        async def write_snapshot(self, folder: Path) -> None:
            self.num_failed += 1
            raise OSError(28, "No space left on device")

        async def train(self, batch: TrainBatch) -> StepReport:
            while self.num_failed < min(batch.step, 3):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # the save ends a little later
            return await super().train(batch)

    fleet, _, _ = fleet_with(learner := Full())
    with pytest.raises(EngineError, match="3 checkpoints in a row could not be written"):
        go(make_job(plan_of(), fleet, tmp_path, save_steps=1))
    assert len(learner.batches) >= 4, "training went on meanwhile"
    assert not list((tmp_path / "checkpoints").glob("*")), "no draft is left"


def test_what_waits_for_room_among_the_students_does_not_hold_up_pairs(tmp_path: Path) -> None:
    """The journal gave back more of the student than fits, and a pair behind it in the stream."""

    async def check() -> None:
        plan = make_plan(STEPS, 0.5, whole_steps=False, max_staleness=2)
        accounts = StepAccounts(max_steps=STEPS, metrics=FakeMetrics(), sinks=[])
        ring = make_ring(plan, fleet_with(FakeLearner())[0], accounts, ledger=Ledger(tmp_path / "ledger.jsonl"))
        written = await FakeSampler().sample([plan.stream.prompt(index) for index in range(BATCH + 1)], plan.sampling)
        row = plan.stream.row(BATCH + 1)
        pair = fixed_trajectory(SampleId("test", BATCH + 1), row.prompt_ids, row.completion_ids, 5)
        targets = await FakeTeacher().score([*written, pair])
        groups = [
            (ScoredTrajectory(each, (TeacherScore("teacher", told),)),)
            for each, told in zip([*written, pair], targets, strict=True)
        ]
        admissions = asyncio.create_task(_admit_all(ring, groups))
        async with asyncio.timeout(20):
            while ring.replay.depth < BATCH + 1:
                await asyncio.sleep(0)
        assert (ring.replay.num_student, ring.replay.num_fixed) == (BATCH, 1)
        assert not admissions.done()
        await ring.replay.draw(1, 0, 0)
        await admissions

    asyncio.run(check())
