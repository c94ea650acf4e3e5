"""Keeping: what was scored goes into the journal beside the ring, and nobody waits for it."""

import asyncio
import logging
from collections.abc import Sequence

from gkd_dist.errors import LostTargetsError, plain
from gkd_dist.interfaces import Journal
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.replay.groups import Group
from gkd_dist.types import ScoredTrajectory

logger = logging.getLogger(__name__)

MAX_PENDING_BYTES = 256 << 20
"""Of targets on their way into the journal, apart from one group of any size."""
LAST_APPENDS_S = 5.0
"""What they may take when the ring has ended."""


class Keeper:
    """Writes scored groups to a journal, one call at a time: what comes meanwhile goes with the next call.

    What is lost in a crash is scored again. Where the journal is the slower one, some groups are left out: until they
    are written they hold memory of the object store.

    Args:
        journal: None keeps nothing.
    """

    def __init__(self, journal: Journal | None, accounts: StepAccounts) -> None:
        self._journal = journal
        self._accounts = accounts
        self._waiting: list[ScoredTrajectory] = []
        self._pending_bytes = 0
        """Of what waits, and of what is being written."""
        self._writing: asyncio.Task[None] | None = None
        self._is_slow = False
        """Whether something was left out, which is said once."""
        self._num_failed = 0
        """Calls of the journal. The 1st, 2nd, 4th, 8th of them is told: a full disk fails them all."""

    def keep(self, groups: Sequence[Group]) -> None:
        """Returns at once."""
        if self._journal is None or not groups:
            return
        scored = [item for group in groups for item in group]
        num_bytes = _num_bytes(scored)
        if self._pending_bytes and self._pending_bytes + num_bytes > MAX_PENDING_BYTES:
            if not self._is_slow:
                self._is_slow = True
                logger.warning("the journal is slower than the ring: after a crash, what it misses is done again")
            self._accounts.not_kept(len(scored))
            return
        self._waiting += scored
        self._pending_bytes += num_bytes
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(self._journal))

    async def end(self) -> None:
        """Wait a little for what is on its way into the journal; then nothing is."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=LAST_APPENDS_S)
        if self._writing is not None:  # it hangs
            self._writing.cancel()
            await asyncio.wait([self._writing])

    async def _write(self, journal: Journal) -> None:
        try:
            while self._waiting:
                scored, self._waiting = self._waiting, []
                try:
                    await self._append(journal, scored)
                finally:
                    self._pending_bytes -= _num_bytes(scored)
        finally:
            self._writing = None

    async def _append(self, journal: Journal, scored: Sequence[ScoredTrajectory]) -> None:
        try:
            await journal.append(scored)
        except LostTargetsError as error:
            if len(scored) > 1:  # what went with its node takes no other with it
                for item in scored:
                    await self._append(journal, [item])
                return
            self._not_kept(scored, error)
        except Exception as error:
            self._not_kept(scored, error)

    def _not_kept(self, scored: Sequence[ScoredTrajectory], error: Exception) -> None:
        self._num_failed += 1
        if self._num_failed.bit_count() == 1:
            told = f" (failure no. {self._num_failed})" if self._num_failed > 1 else ""
            logger.warning("%d scored sequence(s) did not get into the journal: %s%s", len(scored), plain(error), told)
        self._accounts.not_kept(len(scored))


def _num_bytes(scored: Sequence[ScoredTrajectory]) -> int:
    return sum(score.targets.num_bytes for item in scored for score in item.scores)
