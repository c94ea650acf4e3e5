"""The watchdog alone."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from gkd_dist.pipeline.watchdog import Watchdog


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
