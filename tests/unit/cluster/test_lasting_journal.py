"""A journal whose process dies or is silent: another one goes on, and after some the calls fail. No cluster is
started."""

import asyncio
import logging
from collections.abc import Collection, Container, Sequence
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.cluster.journal import JournalDiedError, LastingJournal
from gkd_dist.errors import DeadlineError, EngineError, GkdError
from gkd_dist.interfaces import Placed
from gkd_dist.local import LocalJournal
from gkd_dist.testing.fakes import FakeSampler, FakeTeacher
from gkd_dist.types import Kept, SampleId, ScoredTrajectory, TeacherScore
from tests.rings import make_plan

DIED = JournalDiedError("the journal died while asked")
SILENT = DeadlineError("journal did not append within 600 s")


class Process:
    """Stands for a proxy; is lost at the call of that number, from 1."""

    def __init__(self, dies_at: int | None = None, error: GkdError = DIED) -> None:
        self._dies_at = dies_at
        self._error = error
        self.calls: list[str] = []
        self.ended = ""
        self.places: list[dict[str, str | int]] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*_: object) -> str:
            self.calls.append(name)
            await asyncio.sleep(0)
            if self._dies_at is not None and len(self.calls) >= self._dies_at:
                raise self._error
            return name

        return call

    def kill(self) -> None:
        self.ended = "killed"

    async def close(self) -> None:
        self.ended = "closed"


def journal_of(*processes: Any) -> LastingJournal:
    later = list(processes[1:])

    async def start() -> Any:
        return later.pop(0)

    return LastingJournal(processes[0], start)


def test_every_call_is_made_again_where_a_process_dies_or_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        first, second, third, fourth = (
            Process(dies_at=2),
            Process(dies_at=2, error=SILENT),
            Process(dies_at=1, error=SILENT),
            Process(),
        )
        journal = journal_of(first, second, third, fourth)
        assert await journal.read() == "read"  # type: ignore[comparison-overlap]
        await journal.sync()
        with pytest.raises(DeadlineError):  # once more, and then not
            await journal.append([])
        await journal.keep_only(())
        await journal.close()
        assert (first.calls, second.calls) == (["read", "sync"], ["sync", "append"])
        assert (third.calls, fourth.calls) == (["append", "keep_only"], ["keep_only"])
        assert [each.ended for each in (first, second, third, fourth)] == ["killed"] * 3 + ["closed"]

    with caplog.at_level(logging.WARNING):
        asyncio.run(check())
    assert [each.getMessage() for each in caplog.records] == [
        "the journal died; another one goes on (1 of 3)",
        "journal did not append within 600 s; another one goes on (2 of 3)",
        "journal did not append within 600 s; another one goes on (3 of 3)",
    ]


def test_other_errors_end_no_process() -> None:
    async def check() -> None:
        first = Process(dies_at=1, error=EngineError("the disk is full"))
        with pytest.raises(EngineError, match="the disk is full"):
            await journal_of(first).append([])
        assert (first.calls, first.ended) == (["append"], "")

    asyncio.run(check())


@pytest.mark.parametrize("error", [DIED, SILENT])
def test_calls_that_fail_together_start_one_process(error: GkdError) -> None:
    async def check() -> None:
        first, second = Process(dies_at=1, error=error), Process()
        journal = journal_of(first, second)
        await asyncio.gather(journal.append([]), journal.append([]), journal.sync())
        assert sorted(second.calls) == ["append", "append", "sync"]

    asyncio.run(check())


@pytest.mark.parametrize("error", [DIED, SILENT])
def test_one_that_is_always_lost_is_given_up(error: GkdError) -> None:
    async def check() -> None:
        processes = [Process(dies_at=1, error=error) for _ in range(9)]
        journal = journal_of(*processes)
        for _ in range(3):
            with pytest.raises(type(error)):
                await journal.sync()
        with pytest.raises(JournalDiedError, match="died or was silent 4 times; look at Ray's logs"):
            await journal.sync()
        assert [len(process.calls) for process in processes] == [1, 2, 2, 2, 0, 0, 0, 0, 0]

    asyncio.run(check())


class Unheard(LocalJournal):
    """Writes what it is given, and is silent about it."""

    def kill(self) -> None:
        self.is_killed = True

    async def append(self, scored: Sequence[ScoredTrajectory]) -> None:
        await super().append(scored)
        raise SILENT


async def scored_trajectories(number: int) -> list[ScoredTrajectory]:
    plan = make_plan(number, 1.0)
    written = await FakeSampler().sample([plan.stream.prompt(index) for index in range(number)], plan.sampling)
    told = await FakeTeacher().score(written)
    return [
        ScoredTrajectory(each, (TeacherScore("teacher", targets),)) for each, targets in zip(written, told, strict=True)
    ]


@pytest.mark.fault(22)
def test_what_two_processes_have_written_is_read_once(tmp_path: Path) -> None:
    async def check() -> None:
        first, second = Unheard(tmp_path / "journal"), LocalJournal(tmp_path / "journal")
        journal = journal_of(first, second)
        scored = await scored_trajectories(3)
        await journal.append(scored[:2])
        await journal.append(scored[2:])
        assert first.is_killed
        assert len(list((tmp_path / "journal").iterdir())) == 2, "witness: both have written"
        ids = [item.trajectory.sample_id for item in scored]
        reader = LocalJournal(tmp_path / "journal")
        assert [item.trajectory.sample_id for item in (await reader.read()).scored] == ids
        await reader.keep_only(frozenset(ids[1:]))
        assert [item.trajectory.sample_id for item in (await reader.read()).scored] == ids[1:]

    asyncio.run(check())


def test_what_was_to_go_meanwhile_is_not_appended_by_the_next_process() -> None:
    async def check() -> None:
        kept = asyncio.Event()

        class Silent(Process):
            async def append(self, scored: Sequence[ScoredTrajectory]) -> None:
                await kept.wait()
                raise SILENT

            async def keep_only(self, wanted: Collection[SampleId], *_: object) -> None:
                kept.set()

            async def read(self, finished: Container[SampleId] = frozenset()) -> Kept:
                return Kept([], {})

        second = Process()
        journal = journal_of(Silent(), second)
        await asyncio.gather(journal.append([]), journal.keep_only(()))
        assert second.calls == []
        await journal.append([])
        assert second.calls == ["append"]

    asyncio.run(check())


def test_the_process_that_goes_on_is_shown_in_the_place_of_the_lost_one() -> None:
    async def check() -> None:
        first, second = Process(dies_at=1), Process()
        first.places, second.places = [{"pid": 1, "node": "n"}], [{"pid": 2, "node": "n"}]
        journal = journal_of(first, second)
        assert isinstance(journal, Placed) and journal.places == [{"pid": 1, "node": "n"}]
        await journal.sync()
        assert journal.places == [{"pid": 2, "node": "n"}]

    asyncio.run(check())
