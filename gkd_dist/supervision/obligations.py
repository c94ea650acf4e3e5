"""What every replica must have done before it serves, such as load the newest weights."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from typing import Generic

from gkd_dist.supervision.health import Reason
from gkd_dist.supervision.roster import Roster
from gkd_dist.supervision.slots import Incarnation, Replica
from gkd_dist.supervision.together import gather_all

Obligation = Callable[[Replica], Awaitable[object]]


class Obligations(Generic[Replica]):
    """The newest obligation takes the place of those before it: who is late does it alone."""

    def __init__(self, roster: Roster[Replica]) -> None:
        self._roster = roster
        self._present: Obligation[Replica] | None = None
        self.newest = 0
        """Its number; 0 is none."""

    async def bring_up(self, obligation: Obligation[Replica]) -> None:
        """See `Pool.bring_up`."""
        roster = self._roster
        number = self._enact(obligation)
        works = {incarnation: self._oblige(incarnation, number) for incarnation in roster.serving}
        if roster.is_fixed:
            await gather_all(works.values())
            return
        late = await self._until_late([roster.background.spawn(work) for work in works.values()], number)
        for incarnation in roster.serving if late else []:
            if incarnation.fulfilled < number:
                incarnation.slot.health.fall_behind(roster.clock())

    def require(self, obligation: Obligation[Replica], done_by: Collection[Replica]) -> None:
        """See `Pool.require`."""
        number = self._enact(obligation)
        for incarnation in self._roster.serving:
            if any(incarnation.replica is each for each in done_by):
                incarnation.fulfilled = number
            else:
                incarnation.slot.health.fall_behind(self._roster.clock())

    def _enact(self, obligation: Obligation[Replica]) -> int:
        self._present = obligation
        self.newest += 1
        return self.newest

    async def fulfil(self, incarnation: Incarnation[Replica], number: int) -> None:
        """Do the newest obligation, unless number `number` or a newer one is done; one at a time.

        Raises:
            ReplicaEndedError: it was ended meanwhile.
            Exception: what the obligation raised.
        """
        roster = self._roster
        async with incarnation.turn:
            while incarnation.fulfilled < number and self._present is not None:
                newest = self.newest
                try:
                    begun = roster.begin(incarnation, self._present, incarnation.duties, "catch up")
                    answer = await roster.outcome(incarnation, begun, "catch up")
                except Exception as error:
                    roster.census.failed(roster.role, error)
                    raise
                incarnation.fulfilled = max(incarnation.fulfilled, newest)  # `require` may have gone on meanwhile
                roster.census.fulfilled(roster.role, incarnation.slot.index, answer)

    async def _until_late(self, tasks: list[asyncio.Task[None]], number: int) -> bool:
        """Wait for `tasks`; True where some go on after the deadline, while another replica has done it."""
        roster = self._roster
        deadline = roster.clock() + roster.rules.catch_up_timeout_s
        all_done = asyncio.ensure_future(asyncio.gather(*tasks, return_exceptions=True))
        try:
            while True:
                changed = roster.changes.next  # who starts meanwhile may be the one that has done it
                if all_done.done():
                    return False
                is_late = roster.clock() >= deadline
                if is_late and any(each.fulfilled >= number for each in roster.serving):
                    return True
                # Each of thousands would wake this up; only once it is late does the first one matter.
                open_tasks = [task for task in tasks if is_late and not task.done()]
                await roster.changes.wait(changed, math.inf if is_late else deadline, all_done, *open_tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise

    async def _oblige(self, incarnation: Incarnation[Replica], number: int) -> None:
        roster = self._roster
        try:
            await self.fulfil(incarnation, number)
        except Exception as error:
            if roster.is_fixed:
                raise
            if not incarnation.ended:
                roster.condemn(incarnation, Reason.OBLIGATION, error)
