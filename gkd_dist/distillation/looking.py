"""Before an engine starts: can the run go on from what is on the disk?"""

import time
from collections.abc import Callable
from pathlib import Path

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.pipeline.phases import Phase
from gkd_dist.pipeline.recovery_point import find_recovery_point
from gkd_dist.pipeline.watchdog import Watchdog
from gkd_dist.replay.ledger import Ledger


async def look(
    run: str,
    store: CheckpointStore,
    ledger: Ledger,
    *,
    stall_timeout_s: float,
    diagnosis: Path,
    leave: Callable[[int], object],
) -> None:
    """Every byte of a checkpoint is read, in which each part is progress.

    Raises:
        UserError: there are checkpoints, and none can be used.
        StalledError: the disk does not answer.
    """
    moved_at = time.monotonic()

    def progressed() -> None:
        nonlocal moved_at
        moved_at = time.monotonic()

    def idle_s() -> float:
        return time.monotonic() - moved_at

    async with Watchdog(Phase.LOOKING, idle_s, stall_timeout_s, diagnosis, dict, spare=(Exception,), exit=leave):
        await store.disk.run(lambda: find_recovery_point(run, store, ledger, progressed))
