"""What of a run outlives its processes."""

import asyncio
import logging
from dataclasses import dataclass

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.supervision import CheckpointConfig
from gkd_dist.interfaces import Journal
from gkd_dist.replay.ledger import Ledger

logger = logging.getLogger(__name__)

_CLOSE_S = 30.0


@dataclass(frozen=True)
class Durability:
    """What of a run outlives its processes."""

    store: CheckpointStore
    ledger: Ledger
    config: CheckpointConfig
    attempt: int
    """How often the run was started before: as in the ledger, one less than that of `runs.attempts`."""
    journal: Journal | None = None

    async def close(self) -> None:
        """Flush the ledger and let go of it; a disk that hangs does not keep the run from its end."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.store.disk.run(self.ledger.close)
        except TimeoutError:
            logger.warning("%s could not be flushed within %g s", self.ledger.path, _CLOSE_S)
