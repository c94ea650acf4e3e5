"""Brings the slots of a role to what they should be: one pass at every change, and when something falls due.

A pass looks at each slot alone and starts at most one thing; nothing in it waits. So whatever happens in between (a
death, a new target, both at once), the next pass goes on from there, and the role converges to its target.
"""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, Generic

from gkd_dist.errors import DeadlineError, ResourceError
from gkd_dist.supervision.health import RUNNING, Reason, State
from gkd_dist.supervision.obligations import Obligations
from gkd_dist.supervision.roster import Roster, cause_of_death
from gkd_dist.supervision.signs import Signs
from gkd_dist.supervision.slots import Incarnation, Replica, Slot


class Supervisor(Generic[Replica]):
    """The life of every slot: start, catch-up, probes, drain, end."""

    def __init__(self, roster: Roster[Replica], signs: Signs[Replica], obligations: Obligations[Replica]) -> None:
        self._roster = roster
        self._signs = signs
        self._obligations = obligations

    async def run(self) -> None:
        """Endless."""
        while True:
            changed = self._roster.changes.next
            await self._roster.changes.wait(changed, self.look())

    async def start_all(self) -> None:
        """Start every slot of the target at once.

        Raises:
            Exception: the first failure; the caller ends what was started.
        """
        self.apply_target()
        slots = list(self._roster.slots.values())
        for slot in slots:
            slot.health.begin_start(self._roster.clock())
        starts = [asyncio.create_task(self._start(slot)) for slot in slots]
        for slot, start in zip(slots, starts, strict=True):
            slot.phase = start
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    def apply_target(self) -> None:
        """Open the slots that are missing, drain those that are too many, take back those that are wanted again.

        While none of those that stay serves, those that are too many do: else a role would end by being scaled.
        """
        roster, now = self._roster, self._roster.clock()
        for index in range(roster.target):
            if index not in roster.slots:
                roster.add(index)
        is_served = any(each.slot.index < roster.target for each in roster.serving)
        for index, slot in list(roster.slots.items()):
            state, is_wanted = slot.health.state, index < roster.target
            if is_wanted and state is State.DRAINING:
                slot.health.take_back(now)
            elif not is_wanted and state in (State.HEALTHY, State.SUSPECT, State.STALE):
                if is_served or state is State.STALE:
                    slot.health.drain(now)
            elif not is_wanted and state is State.RESTARTING:
                slot.health.die(now, Reason.SCALED)
                if slot.phase is not None:
                    slot.phase.cancel()
            elif not is_wanted and state in (State.DEAD, State.RETIRED) and not slot.is_busy:
                del roster.slots[index]
        roster.report()

    def reopen(self) -> None:
        """Forget the slots that are retired: `apply_target` opens them again, with all their attempts."""
        for index, slot in list(self._roster.slots.items()):
            if slot.health.state is State.RETIRED and not slot.is_busy:
                del self._roster.slots[index]

    def look(self) -> float:
        """One pass; returns when the next one is due, if nothing changes before."""
        self.apply_target()
        return min((self._tend(slot) for slot in list(self._roster.slots.values())), default=math.inf)

    def _tend(self, slot: Slot[Replica]) -> float:
        roster, now, health, incarnation = self._roster, self._roster.clock(), slot.health, slot.incarnation
        due = math.inf
        health.forgive(now)
        if health.state is State.DEAD and not slot.is_busy and slot.index < roster.target:
            if now < health.restart_at:
                return health.restart_at
            health.begin_start(now)
            self._spawn(slot, self._start(slot))
        elif incarnation is not None and health.state is State.STALE and not slot.is_busy:
            self._spawn(slot, self._catch_up(slot, incarnation))
        elif incarnation is not None and health.state is State.DRAINING:
            due = health.since + roster.rules.drain_timeout_s
            if now >= due or not incarnation.requests:
                roster.condemn(incarnation, Reason.SCALED)
                return math.inf
        if incarnation is not None and health.state in RUNNING - {State.STALE}:
            due = min(due, self._signs.look_for(incarnation))
        return due

    def _spawn(self, slot: Slot[Replica], work: Coroutine[Any, Any, None]) -> None:
        slot.phase = self._roster.background.spawn(work)
        slot.phase.add_done_callback(lambda _: self._roster.notify())

    async def _start(self, slot: Slot[Replica]) -> None:
        roster = self._roster
        try:
            replica = await roster.launcher.start(slot.index)
        except Exception as error:
            if slot.health.state is State.RESTARTING:
                is_full = isinstance(error, ResourceError | DeadlineError)
                reason = Reason.NO_ROOM if is_full else Reason.START
                slot.health.die(roster.clock(), *cause_of_death(reason, error))
            raise
        if slot.health.state is not State.RESTARTING:  # scaled away, and the start did not notice in time
            await roster.launcher.kill(replica)
            return
        await self._catch_up(slot, roster.join(slot, replica))

    async def _catch_up(self, slot: Slot[Replica], incarnation: Incarnation[Replica]) -> None:
        """Do the newest obligation, and any newer one that comes up meanwhile; then it serves."""
        roster, obligations = self._roster, self._obligations
        try:
            while incarnation.fulfilled < obligations.newest:
                await obligations.fulfil(incarnation, obligations.newest)
        except Exception as error:
            if not incarnation.ended:
                roster.condemn(incarnation, Reason.OBLIGATION, error)
            raise
        if not incarnation.ended and slot.health.state is State.STALE:
            slot.health.caught_up(roster.clock())
