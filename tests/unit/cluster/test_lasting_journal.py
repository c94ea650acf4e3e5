"""A journal whose process dies: another one goes on, and after some the calls fail. No cluster is started."""

import asyncio
import logging
from typing import Any

import pytest

from gkd_dist.cluster.journal import JournalDiedError, LastingJournal
from gkd_dist.interfaces import Placed


class Process:
    """Stands for a proxy; dies at the call of that number, from 1."""

    def __init__(self, dies_at: int | None = None) -> None:
        self._dies_at = dies_at
        self.calls: list[str] = []
        self.ended = ""
        self.places: list[dict[str, str | int]] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*_: object) -> str:
            self.calls.append(name)
            await asyncio.sleep(0)
            if self._dies_at is not None and len(self.calls) >= self._dies_at:
                raise JournalDiedError("the journal died")
            return name

        return call

    def kill(self) -> None:
        self.ended = "killed"

    async def close(self) -> None:
        self.ended = "closed"


def journal_of(*processes: Process) -> LastingJournal:
    later = list(processes[1:])

    async def start() -> Any:
        return later.pop(0)

    return LastingJournal(processes[0], start)  # type: ignore[arg-type]


def test_what_may_be_done_twice_is_asked_again_and_an_append_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        first, second, third = Process(dies_at=2), Process(dies_at=2), Process()
        journal = journal_of(first, second, third)
        assert await journal.read() == "read"  # type: ignore[comparison-overlap]
        await journal.sync()
        with pytest.raises(JournalDiedError):
            await journal.append([])
        await journal.keep_only(())
        await journal.close()
        assert (first.calls, second.calls, third.calls) == (["read", "sync"], ["sync", "append"], ["keep_only"])
        assert (first.ended, second.ended, third.ended) == ("killed", "killed", "closed")

    with caplog.at_level(logging.WARNING):
        asyncio.run(check())
    assert [each.getMessage() for each in caplog.records] == [
        "the journal died; another one goes on (1 of 3)",
        "the journal died; another one goes on (2 of 3)",
    ]


def test_calls_that_fail_together_start_one_process() -> None:
    async def check() -> None:
        first, second = Process(dies_at=1), Process()
        journal = journal_of(first, second)
        results = await asyncio.gather(journal.append([]), journal.append([]), journal.sync(), return_exceptions=True)
        assert [type(result) for result in results] == [JournalDiedError, JournalDiedError, type(None)]
        assert second.calls == ["sync"]

    asyncio.run(check())


def test_one_that_always_dies_is_given_up() -> None:
    async def check() -> None:
        processes = [Process(dies_at=1) for _ in range(9)]
        journal = journal_of(*processes)
        for _ in range(3):
            with pytest.raises(JournalDiedError):
                await journal.sync()
        with pytest.raises(JournalDiedError, match="died 4 times; look at Ray's logs"):
            await journal.sync()
        assert [len(process.calls) for process in processes] == [1, 2, 2, 2, 0, 0, 0, 0, 0]

    asyncio.run(check())


def test_the_process_that_goes_on_is_shown_in_the_place_of_the_dead_one() -> None:
    async def check() -> None:
        first, second = Process(dies_at=1), Process()
        first.places, second.places = [{"pid": 1, "node": "n"}], [{"pid": 2, "node": "n"}]
        journal = journal_of(first, second)
        assert isinstance(journal, Placed) and journal.places == [{"pid": 1, "node": "n"}]
        await journal.sync()
        assert journal.places == [{"pid": 2, "node": "n"}]

    asyncio.run(check())
