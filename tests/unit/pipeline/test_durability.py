"""What outlives a run is let go of in order, and off the event loop."""

import asyncio
import logging
import threading
from pathlib import Path

import pytest

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.supervision import CheckpointConfig
from gkd_dist.pipeline import durability as durabilities
from gkd_dist.pipeline.durability import Durability
from gkd_dist.replay.ledger import DroppedPrompt, Ledger
from gkd_dist.types import SampleId


class Watched(Ledger):
    closed_in = ""

    def close(self) -> None:
        self.closed_in = threading.current_thread().name
        super().close()


def durability_of(folder: Path) -> tuple[Durability, Watched]:
    ledger = Watched(folder / "ledger.jsonl")
    ledger.append(DroppedPrompt(0, SampleId("r", 1), "rejected"))
    return Durability(CheckpointStore(folder / "checkpoints", 2), ledger, CheckpointConfig(), attempt=0), ledger


def test_the_ledger_is_flushed_on_the_thread_of_the_disk(tmp_path: Path) -> None:
    durability, ledger = durability_of(tmp_path)
    asyncio.run(durability.close())
    assert ledger.closed_in == "disk"


def test_a_disk_that_hangs_does_not_keep_the_run_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(durabilities, "_CLOSE_S", 0.05)

    async def end() -> None:
        hung = asyncio.ensure_future(durability.store.disk.run(goes_on.wait))
        await asyncio.sleep(0)  # it has begun
        await durability.close()
        goes_on.set()
        await hung

    goes_on = threading.Event()
    durability, ledger = durability_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        asyncio.run(end())
    assert ledger.closed_in == ""
    assert "could not be flushed within 0.05 s" in caplog.text
