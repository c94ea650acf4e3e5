"""Checkpoints of a run: taken between two steps, written beside the next ones."""

import asyncio
import logging
from pathlib import Path

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.supervision import CheckpointConfig
from gkd_dist.errors import EngineError
from gkd_dist.interfaces import Fleet, Journal
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.progress import Progress
from gkd_dist.replay.ledger import Ledger

logger = logging.getLogger(__name__)

LEARNER = "learner"
"""Folder of a checkpoint with what the learner wrote."""
PROGRESS = "ring.json"
_LAST_SAVE_S = 60.0
"""What a save under way may take once the ring has failed."""


class Checkpointer:
    """Saves learner and progress together; at most one save is under way.

    Args:
        fleet: its learner is read anew for every save.
        journal: forgets what a checkpoint holds; None where there is none.
    """

    def __init__(
        self,
        store: CheckpointStore,
        fleet: Fleet,
        ledger: Ledger,
        config: CheckpointConfig,
        accounts: StepAccounts,
        journal: Journal | None = None,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._ledger = ledger
        self._config = config
        self._accounts = accounts
        self._journal = journal
        self._under_way: asyncio.Task[None] | None = None
        self._failures = 0
        self.last_step: int | None = None
        """Of the newest good checkpoint of this start."""

    async def after_step(self, progress: Progress) -> None:
        """Begin a checkpoint when one is due; returns when the state of this step has been copied.

        Raises:
            EngineError: too many failed in a row.
        """
        due = self._config.save_steps and progress.step % self._config.save_steps == 0
        if due and (self._under_way is None or self._under_way.done()):  # a slow disk skips, it never piles up
            await self._begin(progress)

    async def now(self, progress: Progress) -> None:
        """A checkpoint of this step is on the disk when this returns.

        Raises:
            EngineError: it is not, and why.
        """
        await self.settle()
        if self.last_step != progress.step:
            await self._begin(progress)
            await self.settle()
        if self.last_step != progress.step:
            raise EngineError(f"the checkpoint of step {progress.step} could not be written; see the log")

    async def settle(self) -> None:
        """Wait for the save under way, if there is one."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way])

    async def end(self) -> None:
        """Let the save under way finish, but not for ever: then it is given up, and former checkpoints stay."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way], timeout=_LAST_SAVE_S)
            self._under_way.cancel()

    async def _begin(self, progress: Progress) -> None:
        if self._failures >= self._config.max_failures:
            raise EngineError(
                f"{self._failures} checkpoints in a row could not be written; look at the disk of {self._store.folder}"
            )
        version = await self._fleet.learner.snapshot()
        if version != progress.step:
            raise EngineError(f"the learner is at version {version}, the controller at {progress.step}")
        self._under_way = asyncio.create_task(self._save(progress.copy()))

    async def _save(self, progress: Progress) -> None:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                with self._accounts.timed("checkpoint"):
                    await self._write(progress)
        except asyncio.CancelledError:
            self._store.abandon(progress.step)
            raise
        except Exception as error:
            self._failures += 1
            self._accounts.checkpointed(None)
            self._store.abandon(progress.step)
            logger.error("the checkpoint of step %d failed, former ones stay: %r", progress.step, error)
            return
        self._failures = 0
        self.last_step = progress.step
        self._accounts.checkpointed(progress.step)

    async def _write(self, progress: Progress) -> None:
        draft = await asyncio.to_thread(self._store.draft, progress.step)
        (draft / LEARNER).mkdir()
        await self._fleet.learner.write_snapshot((draft / LEARNER).absolute())
        progress.write(draft / PROGRESS)
        await asyncio.to_thread(self._ledger.sync)
        await asyncio.to_thread(self._store.commit, progress.step)
        await asyncio.to_thread(self._store.prune)
        await self._forget(progress)

    async def _forget(self, progress: Progress) -> None:
        """A journal that fails costs work after a crash, and no checkpoint."""
        if self._journal is not None:
            try:
                await self._journal.forget(progress.trained.union(progress.dropped))
            except Exception as error:
                logger.warning("the journal did not forget what step %d holds: %r", progress.step, error)


def read_progress(checkpoint: Path) -> Progress:
    """What a checkpoint says beside the learner's state."""
    return Progress.read(checkpoint / PROGRESS)
