"""Before the first phase and after the last one: engines that never come up, or never close."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.distillation.lifetime import started
from gkd_dist.distillation.looking import look
from gkd_dist.errors import EngineError, StalledError
from gkd_dist.pipeline.phases import Phase
from gkd_dist.replay.ledger import Ledger
from tests.run_directories import make_run

STALL_S, STARTUP_S = 0.5, 0.3


async def go(tmp_path: Path, start: Callable[[Any], Any], end: Callable[[], Any], fails: bool = False) -> list[str]:
    """Start, work and close; what was said."""
    said: list[str] = []

    @asynccontextmanager
    async def fleet(_: object, *, say: Callable[[str], None], when_connected: object) -> AsyncIterator[str]:
        await start(say)
        try:
            yield "fleet"
        finally:
            await end()

    @asynccontextmanager
    async def journal(_: Path) -> AsyncIterator[None]:
        yield None

    config = SimpleNamespace(
        supervision=SimpleNamespace(stall_timeout_s=STALL_S), cluster=SimpleNamespace(startup_timeout_s=STARTUP_S)
    )
    prepared: Any = SimpleNamespace(blueprint=SimpleNamespace(config=config, fleet=fleet, journal=journal))
    signals: Any = SimpleNamespace(event=asyncio.Event(), install=None, begin=lambda: None)
    narrate: Any = said.append
    directory, metrics = make_run(tmp_path), Any
    async with started(prepared, directory, metrics, narrate, signals, lambda _: None) as (running, _):  # type: ignore[arg-type]
        assert running == "fleet"
        await asyncio.sleep(2 * STALL_S)  # closing has not begun
        if fails:
            raise EngineError("the run failed")
    return said


async def nothing(*_: object) -> None: ...


def test_parts_that_come_up_one_by_one_may_take_longer_together(tmp_path: Path) -> None:
    async def start(say: Callable[[str], None]) -> None:
        for number in range(4):
            await asyncio.sleep(0.3)
            say(f"part {number} up")

    assert asyncio.run(go(tmp_path, start, nothing)) == [*(f"part {n} up" for n in range(4)), "all engines are up"]


@pytest.mark.fault(23)
def test_a_disk_that_does_not_answer_is_a_stall_before_an_engine_starts(tmp_path: Path) -> None:
    goes_on = threading.Event()

    class Hangs(CheckpointStore):
        """A little progress, and then nothing."""

        def newest(self, objection: Any = None, progressed: Callable[[], object] = lambda: None) -> None:
            for _ in range(4):
                time.sleep(STALL_S / 2)
                progressed()
            moved.append(True)
            goes_on.wait(20)

    moved: list[bool] = []
    store, ledger = Hangs(tmp_path / "checkpoints", 2), Ledger(tmp_path / "ledger.jsonl")
    file = tmp_path / "diagnosis.json"
    with pytest.raises(StalledError, match=f"^{Phase.LOOKING}: nothing has come to an end for {STALL_S:g} s"):
        asyncio.run(look("test", store, ledger, stall_timeout_s=STALL_S, diagnosis=file, leave=lambda _: None))
    goes_on.set()
    assert moved, "it was not ended while it moved"
    assert json.loads(file.read_text())["phase"] == Phase.LOOKING


@pytest.mark.fault(23)
def test_a_part_that_never_comes_up_ends_the_run(tmp_path: Path) -> None:
    async def start(say: Callable[[str], None]) -> None:
        say("sampler 0 up")
        await asyncio.sleep(3600)

    with pytest.raises(StalledError, match=r"^starting the engines: nothing has come to an end for 0\.8 s"):
        asyncio.run(asyncio.wait_for(go(tmp_path, start, nothing), 30))
    (file,) = tmp_path.glob("tiny-1/diagnosis.json")
    found = json.loads(file.read_text())
    assert (found["phase"], found["said"]) == ("starting the engines", ["sampler 0 up"])


@pytest.mark.fault(23)
def test_a_part_that_never_closes_ends_the_run(tmp_path: Path) -> None:
    async def end() -> None:
        await asyncio.sleep(3600)

    with pytest.raises(StalledError, match=r"^closing what was started: nothing has come to an end for 0\.5 s"):
        asyncio.run(asyncio.wait_for(go(tmp_path, nothing, end), 30))
    (file,) = tmp_path.glob("tiny-1/diagnosis-closing.json")
    assert json.loads(file.read_text())["phase"] == "closing what was started"


def test_a_run_that_fails_and_closes_keeps_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="the run failed"):
        asyncio.run(go(tmp_path, nothing, nothing, fails=True))
    assert not list(tmp_path.glob("*/diagnosis*.json"))


@pytest.mark.fault(23)
def test_a_run_that_fails_and_never_closes_keeps_its_own_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def end() -> None:
        await asyncio.sleep(3600)

    with pytest.raises(EngineError, match="the run failed"):
        asyncio.run(asyncio.wait_for(go(tmp_path, nothing, end, fails=True), 30))
    assert len(list(tmp_path.glob("tiny-1/diagnosis-closing.json"))) == 1
    assert "after the failure: closing what was started: nothing has come to an end" in caplog.text
