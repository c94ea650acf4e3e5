"""The files of the journal's actor: one call at a time, also where callers give up. No cluster is started."""

import asyncio
import threading
from pathlib import Path

import pytest

from gkd_dist.cluster import journal


class Files:
    """Stands for the files; an append takes until it is let go."""

    def __init__(self, folder: Path) -> None:
        self.goes_on = threading.Event()
        self.begun = threading.Event()
        self.calls: list[str] = []

    def append(self, scored: object) -> None:
        self.calls.append("append begins")
        self.begun.set()
        assert self.goes_on.wait(5)
        self.calls.append("append ends")

    def keep_only(self, wanted: object) -> None:
        self.calls.append("keep_only")


class Header:
    def with_targets(self, frames: object) -> list[object]:
        return []


@pytest.mark.fault(32)
def test_a_call_that_nobody_waits_for_any_more_ends_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "Journal", Files)
    monkeypatch.setattr(journal, "end_with_parent", lambda: None)

    async def turn() -> list[str]:
        actor = journal.JournalActor(tmp_path)
        files: Files = actor._journal  # type: ignore[assignment]
        append = asyncio.create_task(actor.append(0, Header()))  # type: ignore[arg-type]
        await asyncio.to_thread(files.begun.wait, 5)
        append.cancel()  # as Ray does where the deadline of the caller is over
        rewrite = asyncio.create_task(actor.keep_only(1, frozenset()))
        await asyncio.sleep(0.1)
        files.goes_on.set()
        await asyncio.gather(append, rewrite, return_exceptions=True)
        return files.calls

    assert asyncio.run(turn()) == ["append begins", "append ends", "keep_only"]
