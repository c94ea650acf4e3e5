"""The files of the journal's actor: one call at a time, also where callers give up. No cluster is started."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gkd_dist.cluster import journal
from gkd_dist.errors import DeadlineError, EngineError
from gkd_dist.types import Kept


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

    def rewrite(self, wanted: object) -> Iterator[None]:
        self.calls.append("rewrite")
        yield from (None, None)

    def survey(self, finished: object) -> Iterator[None]:
        yield from (None, None, None)
        self.lost = {"segment-00000001.journal": Counter(checksum=2)}

    def surveyed(self) -> Iterator[object]:
        return iter(())


async def all_of(stream: AsyncIterator[object]) -> list[object]:
    return [each async for each in stream]


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
        rewrite = asyncio.create_task(all_of(actor.keep_only(1, frozenset())))
        await asyncio.sleep(0.1)
        files.goes_on.set()
        await asyncio.gather(append, rewrite, return_exceptions=True)
        return files.calls

    assert asyncio.run(turn()) == ["append begins", "append ends", "rewrite"]


def test_what_goes_through_the_files_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "Journal", Files)
    monkeypatch.setattr(journal, "end_with_parent", lambda: None)
    monkeypatch.setattr(journal, "_SIGN_OF_LIFE_S", 0.0)

    async def turn() -> None:
        actor = journal.JournalActor(tmp_path)
        assert await all_of(actor.read(frozenset())) == [None] * 3 + [{"segment-00000001.journal": {"checksum": 2}}]
        assert await all_of(actor.keep_only(1, frozenset())) == [None, None, True]

    asyncio.run(turn())


class Streaming:
    """Stands for a method of an actor: gives these parts, one at each turn of the loop; the last may never come."""

    def __init__(self, *parts: object, hangs: bool = False) -> None:
        self._parts = parts
        self._hangs = hangs

    async def remote(self, *_: object) -> AsyncIterator[Awaitable[object]]:
        for part in self._parts:
            yield asyncio.sleep(0, part)
        if self._hangs:
            await asyncio.Event().wait()


def proxy_of(timeout_s: float, **methods: Streaming) -> journal.JournalProxy:
    return journal.JournalProxy(SimpleNamespace(**methods), "journal", timeout_s)  # type: ignore[arg-type]


def test_a_reading_may_take_longer_than_the_deadline_of_a_request_while_it_goes_on() -> None:
    """Each part is awaited by itself, with a deadline of its own."""

    async def turn() -> None:
        lost = {"segment-00000001.journal": {"checksum": 1}}
        proxy = proxy_of(60, read=Streaming(*[None] * 50, lost), keep_only=Streaming(*[None] * 50, True))
        awaited: list[str] = []
        bounded = proxy._await

        async def noted(call: Awaitable[object], what: str, **more: object) -> object:
            awaited.append(what)
            return await bounded(call, what, **more)  # type: ignore[arg-type]

        proxy._await = noted  # type: ignore[assignment, method-assign]
        signs: list[int] = []
        assert await proxy.read(frozenset(), lambda: signs.append(1)) == Kept([], lost)
        await proxy.keep_only(frozenset(), lambda: signs.append(2))
        assert signs == [1] * 51 + [2] * 50
        assert awaited == ["go on to read its files"] * 51 + ["go on to rewrite its files"] * 51

    asyncio.run(turn())


@pytest.mark.parametrize("what", ["read", "keep_only"])
def test_one_that_stands_still_or_breaks_off_is_an_error(what: str) -> None:
    async def turn() -> None:
        call = {"read": lambda proxy: proxy.read(), "keep_only": lambda proxy: proxy.keep_only(frozenset())}[what]
        with pytest.raises(DeadlineError, match=r"journal did not go on to re.* its files within 0 s"):
            await call(proxy_of(0.2, **{what: Streaming(None, hangs=True)}))
        with pytest.raises(EngineError, match="stopped in the middle of its files"):
            await call(proxy_of(5.0, **{what: Streaming(None)}))

    asyncio.run(turn())
