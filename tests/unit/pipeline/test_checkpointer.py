"""Checkpoints beside the training: what is flushed, what a slow disk does, and what is never finished later."""

import asyncio
import threading
from pathlib import Path

import pytest

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.supervision import CheckpointConfig
from gkd_dist.errors import EngineError
from gkd_dist.local import LocalJournal
from gkd_dist.pipeline import checkpointing
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.checkpointing import Checkpointer
from gkd_dist.pipeline.progress import Progress
from gkd_dist.replay.ledger import Ledger
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from tests.fleets import fleet_of


def checkpointer_of(folder: Path, store: CheckpointStore | None = None, **more: object) -> Checkpointer:
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner())
    accounts = StepAccounts(max_steps=9, metrics=FakeMetrics(), sinks=[])
    fields = {
        "store": store or CheckpointStore(folder / "checkpoints", 2),
        "fleet": fleet,
        "ledger": Ledger(folder / "ledger.jsonl"),
        "config": CheckpointConfig(),
        "accounts": accounts,
    }
    return Checkpointer(**fields | more)


class Hanging(CheckpointStore):
    """A disk that takes a commit and does not answer until it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 2)
        self.began = threading.Event()
        self.goes_on = threading.Event()

    def commit(self, step: int) -> Path:
        self.began.set()
        self.goes_on.wait(20)
        return super().commit(step)


@pytest.mark.fault(32)
def test_a_save_that_took_too_long_is_not_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpointing, "_EXTRA_S", 0.01)

    async def turn() -> None:
        store = Hanging(tmp_path / "checkpoints")
        each = checkpointer_of(tmp_path, store, config=CheckpointConfig(timeout_s=1.0))
        with pytest.raises(EngineError, match="could not be written"):
            await each.now(Progress("test"))
        assert store.began.is_set(), "witness: the commit was under way"
        assert "longer than checkpoint.timeout_s (1 s)" in caplog.text
        store.goes_on.set()
        await store.disk.run(lambda: None)  # the thread is through with it
        assert store.newest() is None
        assert not list(store.folder.glob("step-*"))
        await each.now(Progress("test"))
        assert store.newest().step == 0, "the next attempt at the same step counts"

    asyncio.run(turn())


@pytest.mark.fault(32)
def test_a_disk_that_hangs_does_not_keep_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of asyncio.run waits for the threads of asyncio.to_thread, and for no others."""
    monkeypatch.setattr(checkpointing, "_LAST_SAVE_S", 0.1)
    store = Hanging(tmp_path / "checkpoints")

    async def turn() -> None:
        each = checkpointer_of(tmp_path, store, config=CheckpointConfig(save_steps=1))
        await each.after_step(Progress("test"))
        while not store.began.is_set():
            await asyncio.sleep(0.01)
        await each.end()

    asyncio.run(turn())
    assert not store.goes_on.is_set(), "the thread still hangs"
    store.goes_on.set()


def test_journal_and_ledger_are_flushed_before_the_checkpoint_is_finished(tmp_path: Path) -> None:
    said: list[str] = []

    class Journal(LocalJournal):
        async def sync(self) -> None:
            said.append("journal")

    class Flushed(Ledger):
        def sync(self) -> None:
            said.append("ledger")

    class Store(CheckpointStore):
        def commit(self, step: int) -> Path:
            said.append("commit")
            return super().commit(step)

    each = checkpointer_of(
        tmp_path,
        Store(tmp_path / "checkpoints", 2),
        ledger=Flushed(tmp_path / "ledger.jsonl"),
        journal=Journal(tmp_path / "journal"),
    )
    asyncio.run(each.now(Progress("test")))
    assert sorted(said[:2]) == ["journal", "ledger"] and said[2:] == ["commit"]


@pytest.mark.fault(22)
def test_a_journal_that_fails_costs_no_checkpoint(tmp_path: Path) -> None:
    class Dead(LocalJournal):
        async def sync(self) -> None:
            raise EngineError("the journal died")

        async def forget(self, finished: object) -> None:
            raise EngineError("the journal died")

    each = checkpointer_of(tmp_path, journal=Dead(tmp_path / "journal"))
    asyncio.run(each.now(Progress("test")))
    assert each.last_step == 0


def test_the_checkpoint_that_a_run_came_from_is_not_written_again(tmp_path: Path) -> None:
    class Unused(CheckpointStore):
        def draft(self, step: int) -> Path:
            raise OSError("no second one of the same step")

    each = checkpointer_of(tmp_path, Unused(tmp_path / "checkpoints", 2), last_step=0)
    asyncio.run(each.now(Progress("test")))
    assert each.last_step == 0
