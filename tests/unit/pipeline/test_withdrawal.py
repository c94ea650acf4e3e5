"""A teacher is refused: neither this start nor the next one goes on with what it taught since its last good check."""

import asyncio
import copy
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.supervision import CheckpointConfig
from gkd_dist.errors import LearnerLostError, TeacherChangedError
from gkd_dist.local import LocalJournal
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.durability import Durability
from gkd_dist.pipeline.job import distil
from gkd_dist.pipeline.sentinel import Sentinel
from gkd_dist.pipeline.stage import Stage
from gkd_dist.pipeline.withdrawal import withdraw
from gkd_dist.replay.ledger import Ledger
from gkd_dist.targets import HiddenTargets
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from gkd_dist.types import StepReport, TrainBatch, Trajectory
from tests.fleets import fleet_of
from tests.rings import make_job, make_plan

WRONG = 666.0
ASYNCHRONOUS = {"whole_steps": False, "max_staleness": 1, "replay_capacity": 8}


class ChangingTeacher(FakeTeacher):
    """Passes so many checks, the one at the start included, and no more; wrong in all it says after the last of them.

    Args:
        good_checks: None: it never changes.
    """

    def __init__(self, good_checks: int | None) -> None:
        super().__init__(gaps_nats=[] if good_checks is None else [0.0] * good_checks + [9.0])
        self._good_checks = good_checks
        self.num_wrong = 0

    def _targets(self, trajectory: Trajectory) -> Any:
        right = super()._targets(trajectory)
        is_wrong = self._good_checks is not None and self.num_checks >= self._good_checks
        self.num_wrong += is_wrong
        return HiddenTargets(np.full_like(right.hidden, WRONG)) if is_wrong else right


@dataclass(frozen=True)
class Start:
    """What one start did."""

    error: Exception | None
    trained: list[int]
    wrong: list[int]
    """Steps, both."""
    said: str


def is_wrong(batch: TrainBatch) -> bool:
    return any(bool((score.targets.hidden == WRONG).all()) for item in batch.scored for score in item.scores)


def start(
    folder: Path,
    teacher: FakeTeacher,
    *,
    sentinel_steps: int = 2,
    save_steps: int = 2,
    keep: int = 2,
    max_steps: int = 8,
    learner: FakeLearner | None = None,
    **plan: Any,
) -> Start:
    said: list[str] = []
    stage = Stage()
    learner = learner or FakeLearner()
    taught: list[TrainBatch] = []
    train = learner.train

    async def watched(batch: TrainBatch) -> StepReport:
        if stage.ring is not None and stage.ring.checkpointer is not None:
            await stage.ring.checkpointer.settle()  # a save that falls due during another one is skipped
        report = await train(batch)
        taught.append(batch)
        return report

    learner.train = watched

    async def again(former: FakeLearner) -> FakeLearner:
        former._run_epoch += "-again"
        return former

    fleet = fleet_of([FakeSampler()], {"teacher": [teacher]}, learner)
    fleet.replace_learner = again

    async def turn() -> Exception | None:
        journal = LocalJournal(folder / "journal")
        store = CheckpointStore(folder / "checkpoints", keep)
        durability = Durability(
            store, Ledger(folder / "ledger.jsonl"), CheckpointConfig(save_steps=save_steps), attempt=0, journal=journal
        )
        job = make_job(
            make_plan(max_steps, 1.0, sentinel_steps={"teacher": sentinel_steps}, **plan),
            fleet,
            folder,
            narrate=said.append,
            stage=stage,
            durability=durability,
        )
        try:
            await asyncio.wait_for(distil(job), timeout=20)
        except TeacherChangedError as error:
            return error
        finally:
            await journal.close()
            durability.ledger.close()
        return None

    error = asyncio.run(turn())
    steps = [batch.step for batch in taught]
    return Start(error, steps, [batch.step for batch in taught if is_wrong(batch)], "\n".join(said))


def finished(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("how", [{}, ASYNCHRONOUS])
@pytest.mark.parametrize("good_checks", [1, 2, 3])
def test_the_next_start_goes_on_from_the_last_good_check_and_trains_on_nothing_that_was_refused(
    tmp_path: Path, good_checks: int, how: dict[str, Any]
) -> None:
    teacher = ChangingTeacher(good_checks)
    refused = start(tmp_path, teacher, **how)
    good = 2 * (good_checks - 1)
    assert isinstance(refused.error, TeacherChangedError) and refused.error.last_good_step == good
    assert teacher.num_wrong, "it said nothing wrong: this test shows nothing"
    where = f"goes on after step {good}" if good else "begins anew"
    assert where in refused.said and "the journal is emptied" in refused.said
    assert [name for name in finished(tmp_path) if int(name.removeprefix("step-")) > good] == []
    mended = start(tmp_path, FakeTeacher(), **how)
    assert (mended.error, mended.trained, mended.wrong) == (None, list(range(good, 8)), [])
    assert "come from the journal" not in mended.said


def test_a_teacher_that_changed_before_the_end_leaves_no_checkpoint_of_it(tmp_path: Path) -> None:
    refused = start(tmp_path, ChangingTeacher(2), sentinel_steps=4, save_steps=1)
    assert refused.error is not None and refused.error.last_good_step == 4
    assert refused.trained == list(range(8))
    assert start(tmp_path, FakeTeacher(), sentinel_steps=4).trained == [4, 5, 6, 7]


def test_a_save_under_way_is_given_up(tmp_path: Path) -> None:
    class Slow(FakeLearner):
        async def write_snapshot(self, folder: Path) -> None:
            if self._snapshot > 2:
                await asyncio.Event().wait()
            await super().write_snapshot(folder)

    refused = start(tmp_path, ChangingTeacher(2), learner=Slow())
    assert refused.error is not None and finished(tmp_path) == ["step-2"]


def test_what_was_checked_before_a_learner_went_back_is_no_check_of_what_came_after(tmp_path: Path) -> None:
    """Checked at 0 and at 4; the learner dies at 5 and another one goes on from 3."""

    class Mortal(FakeLearner):
        has_died = False

        async def train(self, batch: TrainBatch) -> StepReport:
            if batch.step == 5 and not self.has_died:
                self.has_died = True
                raise LearnerLostError("the learner died")
            return await super().train(batch)

    refused = start(tmp_path, ChangingTeacher(2), sentinel_steps=4, save_steps=3, max_steps=9, learner=Mortal())
    assert refused.trained == [0, 1, 2, 3, 4, 3]
    assert refused.error is not None and refused.error.last_good_step == 3


def test_a_sentinel_goes_on_from_the_older_of_checkpoint_and_check() -> None:
    fleet = fleet_of([FakeSampler()], {"a": [FakeTeacher()], "b": [FakeTeacher()]}, FakeLearner())
    accounts = StepAccounts(max_steps=99, metrics=FakeMetrics(), sinks=[])
    steps = {"a": 4, "b": 50}
    first = Sentinel(fleet, steps, accounts, 10)
    asyncio.run(first.before_step(12))
    assert (first.last_good("a"), first.last_good("b")) == (12, 10)
    back = Sentinel(fleet, steps, accounts, 11, former=first)
    assert (back.last_good("a"), back.last_good("b")) == (11, 10)
    newer = Sentinel(fleet, steps, accounts, 14, former=first)
    assert (newer.last_good("a"), newer.last_good("b")) == (12, 10)


def test_what_cannot_be_withdrawn_is_said_and_hides_no_refusal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(LocalJournal):
        async def keep_only(self, wanted):
            raise OSError(28, "No space left on device")

    class Stubborn(CheckpointStore):
        def set_aside(self, step: int) -> list[Path]:
            raise OSError(30, "Read-only file system")

    ledger = Ledger(tmp_path / "ledger.jsonl")
    store, journal = Stubborn(tmp_path / "checkpoints", 2), Full(tmp_path / "journal")
    said: list[str] = []
    durability = Durability(store, ledger, CheckpointConfig(), 0, journal)
    asyncio.run(withdraw(TeacherChangedError("refused", 3), durability, said.append))
    assert said == []
    for what in ("Read-only file system", "after step 3", "No space left on device", "remove the folder journal/"):
        assert what in caplog.text


def test_a_disk_that_hangs_does_not_keep_the_run_from_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    class Hanging(CheckpointStore):
        def set_aside(self, step: int) -> list[Path]:
            gate.wait(20)
            return []

    store = Hanging(tmp_path / "checkpoints", 2)
    durability = Durability(store, Ledger(tmp_path / "ledger.jsonl"), CheckpointConfig(timeout_s=0.1), 0)
    asyncio.run(withdraw(TeacherChangedError("refused", 3), durability, lambda _: None))
    gate.set()
    assert "could not be set aside" in caplog.text


def test_the_error_carries_its_step_when_it_is_copied() -> None:
    error = copy.copy(TeacherChangedError("teacher 0 changed", 7))  # as pickle does it
    assert (str(error), error.last_good_step, error.exit_code) == ("teacher 0 changed", 7, 70)
