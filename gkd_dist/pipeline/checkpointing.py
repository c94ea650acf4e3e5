"""Checkpoints of a run: taken between two steps, written beside the next ones."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.supervision import CheckpointConfig
from gkd_dist.errors import EngineError, plain
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Journal
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.progress import Progress
from gkd_dist.replay.ledger import Ledger

logger = logging.getLogger(__name__)

LEARNER = "learner"
"""Folder of a checkpoint with what the learner wrote."""
_EXTRA_S = 30.0
"""What each thing beside a checkpoint may take: clearing away, and all of the journal."""
_LAST_SAVE_S = 60.0
"""What a save under way may take once the ring has failed."""


class Checkpointer:
    """Saves learner and progress together; at most one save is under way.

    Args:
        fleet: its learner is read anew for every save.
        journal: forgets what a checkpoint holds; None where there is none.
        last_step: of the checkpoint that the run goes on from; None where there is none.
    """

    def __init__(
        self,
        store: CheckpointStore,
        fleet: Fleet,
        ledger: Ledger,
        config: CheckpointConfig,
        accounts: StepAccounts,
        journal: Journal | None = None,
        last_step: int | None = None,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._ledger = ledger
        self._config = config
        self._accounts = accounts
        self._journal = journal
        self._under_way: asyncio.Task[None] | None = None
        self._saving = 0
        """Step of the save under way, or of the last one."""
        self._failures = 0
        self._awaited_since: float | None = None
        """While somebody waits for the save under way."""
        self.last_step = last_step
        """Of the newest good checkpoint."""

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
            self._awaited_since = time.monotonic()
            try:
                await asyncio.wait([self._under_way])
            finally:
                self._awaited_since = None

    def overdue_s(self) -> float:
        """By how many seconds the save is late that somebody waits for, beyond its own deadline; infinite where nobody
        waits. May be asked from any thread."""
        since = self._awaited_since
        return math.inf if since is None else max(0.0, time.monotonic() - since - self._config.timeout_s)

    async def end(self, *, last_wanted: int | None = None) -> None:
        """Let the save under way finish, but not for ever: then it is given up, and former checkpoints stay.

        Args:
            last_wanted: the save of a later step is given up at once.
        """
        is_wanted = last_wanted is None or self._saving <= last_wanted
        if self._under_way is not None:
            _, hangs = await asyncio.wait([self._under_way], timeout=_LAST_SAVE_S if is_wanted else 0)
            for task in hangs:
                task.cancel()
                await asyncio.wait([task])

    async def _begin(self, progress: Progress) -> None:
        if self._failures >= self._config.max_failures:
            raise EngineError(
                f"{self._failures} checkpoints in a row could not be written; look at the disk of {self._store.folder}"
            )
        with self._accounts.timed("snapshot"):
            version = await self._fleet.learner.snapshot()
        if version != progress.step:
            raise EngineError(f"the learner is at version {version}, the controller at {progress.step}")
        self._saving = progress.step
        self._under_way = asyncio.create_task(self._save(progress.copy()))

    async def _save(self, progress: Progress) -> None:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                with self._accounts.timed("checkpoint"):
                    await self._write(progress)
        except asyncio.CancelledError:
            self._store.give_up(progress.step)
            raise
        except Exception as error:
            self._store.give_up(progress.step)
            self._failures += 1
            self._accounts.checkpointed(None)
            late = f"it took longer than checkpoint.timeout_s ({self._config.timeout_s:g} s)"
            why = late if isinstance(error, TimeoutError) else plain(error)
            logger.error("the checkpoint of step %d failed, former ones stay: %s", progress.step, why)
            await self._bounded(self._abandon(progress.step), "its draft stays until the next start")
            return
        self._failures = 0
        self.last_step = progress.step
        self._accounts.checkpointed(progress.step)
        await self._bounded(self._store.disk.run(self._store.prune), "former checkpoints were not removed")
        if self._journal is not None:
            finished = progress.trained.union(progress.dropped)
            await self._bounded(self._journal.forget(finished), "the journal did not forget what it holds")

    async def _write(self, progress: Progress) -> None:
        """Everything that the checkpoint relies on is flushed before it is finished."""
        on_disk = self._store.disk.run
        draft = await on_disk(lambda: self._store.draft(progress.step))
        await on_disk((draft / LEARNER).mkdir)
        await self._fleet.learner.write_snapshot((draft / LEARNER).absolute())
        await on_disk(lambda: progress.write(draft))
        if self._journal is not None:
            await self._bounded(self._journal.sync(), "after a power cut the journal may lack sequences")
        await on_disk(self._ledger.sync)
        await on_disk(lambda: self._store.commit(progress.step))

    async def _abandon(self, step: int) -> None:
        await self._store.disk.run(lambda: self._store.abandon(step))

    async def _bounded(self, work: Awaitable[object], otherwise: str) -> None:
        """What a checkpoint can do without: a failure, or silence, is logged."""
        try:
            async with asyncio.timeout(_EXTRA_S):
                await work
        except Exception as error:
            logger.warning("beside a checkpoint: %s (%s)", otherwise, plain(error))
