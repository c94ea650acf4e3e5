"""The watchdog alone."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.errors import StalledError
from gkd_dist.pipeline import watchdog
from gkd_dist.pipeline.watchdog import Watchdog


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that blocks whoever opens it, as on a server that is gone: a pipe without a reader."""
    monkeypatch.setattr(watchdog, "_WRITE_S", 0.1)
    file = tmp_path / "diagnosis.json"
    draft = tmp_path / f".{file.name}.{os.getpid()}.tmp"
    os.mkfifo(draft)
    yield file
    reader = os.open(draft, os.O_RDWR | os.O_NONBLOCK)  # who waits goes on
    while any(thread.name == "diagnosis" for thread in threading.enumerate()):
        time.sleep(0.01)
    os.close(reader)


@pytest.mark.fault(23)
def test_a_disk_that_hangs_keeps_no_stalled_run(hanging: Path) -> None:
    async def turn() -> None:
        async with asyncio.timeout(20), Watchdog("training", lambda: 99.0, 0.1, hanging, dict):
            await asyncio.sleep(3600)

    with pytest.raises(StalledError, match=r"no diagnosis could be written to .*diagnosis\.json"):
        asyncio.run(turn())


@pytest.mark.fault(23)
def test_a_disk_that_hangs_keeps_no_failed_run(hanging: Path) -> None:
    async def turn() -> None:
        async with Watchdog("training", lambda: 0.0, 0.1, hanging, dict):
            raise ValueError("the real failure")

    with pytest.raises(ValueError, match="the real failure"):
        asyncio.run(turn())


@pytest.mark.parametrize("block_fails_first", [True, False])
def test_a_block_that_fails_while_the_diagnosis_of_its_stall_is_written_keeps_its_own_error(
    tmp_path: Path, block_fails_first: bool
) -> None:
    """And its last words are not cut off, and its diagnosis stays, whoever writes last."""
    file = tmp_path / "diagnosis.json"

    async def turn() -> None:
        loop, goes_on, begun = asyncio.get_running_loop(), threading.Event(), asyncio.Event()
        watching = False

        def diagnose() -> dict[str, Any]:
            nonlocal watching
            if not watching:  # of the stall
                watching = True
                loop.call_soon_threadsafe(begun.set)
                goes_on.wait(5)
            return {}

        async def words(timeout_s: float) -> dict[str, Any]:
            goes_on.set()
            async with asyncio.timeout(timeout_s):
                while any(thread.name == "diagnosis" for thread in threading.enumerate()):
                    await asyncio.sleep(0.01)
            for _ in range(50):  # whatever the watchdog's thread asks of the loop now
                await asyncio.sleep(0.001)
            return {"last_checkpoint": 7}

        async with Watchdog("training", lambda: 99.0, 0.1, file, diagnose, last_words=words):
            await begun.wait()
            if not block_fails_first:
                goes_on.set()
            raise ValueError("the real failure")

    with pytest.raises(ValueError, match="the real failure"):
        asyncio.run(turn())
    found = json.loads(file.read_text())
    assert "the real failure" in found["error"][-1]
    assert found["last_checkpoint"] == 7


@pytest.mark.fault(23)
def test_a_disk_that_hangs_keeps_no_loop_that_stands_still(hanging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_LAST_WORDS_S", 0.1)
    left, ended = [], threading.Event()

    def leave(code: int) -> None:
        left.append(code)
        ended.set()

    async def turn() -> None:
        async with Watchdog("training", lambda: 99.0, 0.1, hanging, dict, exit=leave):
            ended.wait(20)  # the loop stands still
            await asyncio.sleep(3600)  # cancelled at once

    with pytest.raises(StalledError):
        asyncio.run(turn())
    assert left == [StalledError.exit_code]


def test_a_block_that_ends_while_the_diagnosis_is_written_is_not_cancelled_later(tmp_path: Path) -> None:
    async def turn() -> str:
        loop, goes_on, begun = asyncio.get_running_loop(), threading.Event(), asyncio.Event()

        def diagnose() -> dict[str, Any]:
            loop.call_soon_threadsafe(begun.set)
            goes_on.wait(5)
            return {}

        async with Watchdog("training", lambda: 99.0, 0.1, tmp_path / "diagnosis.json", diagnose):
            await begun.wait()  # what stalled moves again
        goes_on.set()
        await asyncio.sleep(0.2)
        return "the work after the block is done"

    assert asyncio.run(turn()) == "the work after the block is done"
