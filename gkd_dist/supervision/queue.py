"""Requests that wait until a replica has room, first come, first served.

A replica has so many requests in hand at most. The others wait here, so that one that joins gets work at once, nobody
works on a queue that takes longer than the deadline of its last request, and what a replica that ends had in hand goes
to whoever has room first. A request keeps its place for all of its life: one that failed stands before all that came
after it.
"""

import asyncio
import itertools
import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Generic, TypeVar

from gkd_dist.errors import RoleLostError
from gkd_dist.supervision.roster import Roster
from gkd_dist.supervision.slots import Incarnation, Replica

T = TypeVar("T")

_NUMBER = attrgetter("number")


@dataclass(eq=False)
class Begun(Generic[Replica, T]):
    """A request in the hands of a replica."""

    incarnation: Incarnation[Replica]
    work: "asyncio.Future[T]"


@dataclass(eq=False)
class Ticket(Generic[Replica, T]):
    """A request's turn to be begun once."""

    number: int
    """Of the request, by arrival."""
    work: Callable[[Replica], Awaitable[T]]
    what: str
    """The work in words."""
    failed: tuple[Incarnation[Replica], ...] = ()
    """Who is not asked, while anybody else serves."""
    pause_s: float = 0.0
    """After `since`, until one of these may be asked where nobody else serves."""
    first: Incarnation[Replica] | None = None
    """Who is asked, where it serves and has room at once."""
    is_second: bool = False
    """Beside one that is in hand: it goes to somebody else or to nobody."""
    since: float = 0.0
    """When it began to wait."""
    begun: "asyncio.Future[Begun[Replica, T]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Queue(Generic[Replica]):
    """Gives each request to the replica with the least to do, as soon as one has room.

    A pass gives out what can be: at once where a request comes, and one turn of the event loop after a replica was done
    with one or changed its state, when what that said of the replica is known. Between two passes nobody waits who
    could be served. Requests that never failed are all alike, so a pass ends at the first that has to wait.
    """

    def __init__(self, roster: Roster[Replica]) -> None:
        self._roster = roster
        roster.when_freed = self._stir
        self._numbers = itertools.count()
        self._fresh: OrderedDict[int, Ticket[Replica, Any]] = OrderedDict()
        """By number; nobody has failed them."""
        self._tried: list[Ticket[Replica, Any]] = []
        """By number, and all of lower numbers than the fresh ones. Few, but where many fail at once."""
        self._unserved_since: float | None = None
        """While requests wait and nobody serves."""
        self._stirred: asyncio.AbstractEventLoop | None = None
        """The loop that has a pass before it."""
        self._timer: asyncio.Future[Any] | None = None
        self._timer_at = math.inf
        self._due = math.inf
        """When the next pass is, if nothing changes before."""

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._fresh) + len(self._tried)

    def number(self) -> int:
        """For a request that arrives."""
        return next(self._numbers)

    async def begin(self, ticket: Ticket[Replica, T]) -> Begun[Replica, T]:
        """Wait until a replica has begun it; cancelling this leaves nothing begun.

        Raises:
            RoleLostError: no replica served for the whole grace, or can ever serve again.
        """
        self.enter(ticket)
        try:
            return await ticket.begun
        except asyncio.CancelledError:
            self.withdraw(ticket)
            raise

    def enter(self, ticket: Ticket[Replica, Any]) -> None:
        """Its `begun` is done when a replica has begun it, or none is left to."""
        ticket.since = self._roster.clock()
        if ticket.first is not None and not len(self) and self._give(ticket, ticket.first):
            return
        if ticket.failed:
            insort(self._tried, ticket, key=_NUMBER)
        else:
            self._fresh[ticket.number] = ticket
        if self._stirred is not asyncio.get_running_loop():  # else what just ended is not judged yet
            self._look()

    def withdraw(self, ticket: Ticket[Replica, Any]) -> None:
        """Nobody wants it any more, whether or not it was begun meanwhile."""
        self._remove(ticket)
        if not ticket.begun.done():
            ticket.begun.cancel()
        elif not ticket.begun.cancelled() and ticket.begun.exception() is None:
            ticket.begun.result().work.cancel()

    def close(self) -> None:
        """No pass is before it any more but those that requests bring about."""
        self._set_timer(math.inf)

    def _remove(self, ticket: Ticket[Replica, Any]) -> None:
        self._fresh.pop(ticket.number, None)
        index = bisect_left(self._tried, ticket.number, key=_NUMBER)
        if index < len(self._tried) and self._tried[index] is ticket:
            del self._tried[index]

    def _stir(self) -> None:
        """Somebody may have room."""
        first = self._tried[0] if self._tried else next(iter(self._fresh.values()), None)
        loop = None if first is None else first.begun.get_loop()  # whoever says so need not be run by it
        if loop is not None and self._stirred is not loop:
            self._stirred = loop
            loop.call_soon(self._look)

    def _look(self) -> None:
        """One pass."""
        self._stirred, self._due = None, math.inf
        now, fewest = self._roster.clock(), self._fewest_failed()
        for ticket in list(self._tried):
            if len(ticket.failed) >= fewest and self._serve(ticket, now):
                fewest = self._fewest_failed()
        while self._fresh and self._serve(next(iter(self._fresh.values())), now):
            """The next one."""
        if len(self):
            self._due = min(self._due, self._roster.next_trial_at)
        self._set_timer(self._due)

    def _fewest_failed(self) -> float:
        """How many replicas must have failed a request for it to find one now: without room at the healthy ones, only
        what all of them have failed may go to a suspect one."""
        best = self._roster.choose()
        if best is None:
            if self._unserved_since is None:
                self._unserved_since = self._roster.clock()
            return 0
        self._unserved_since = None
        if self._roster.has_room(best):
            return 0
        return self._roster.num_healthy or math.inf

    def _serve(self, ticket: Ticket[Replica, Any], now: float) -> bool:
        """Give it out, or up; False where it goes on waiting."""
        roster = self._roster
        other = roster.choose(ticket.failed)
        if other is not None:
            return self._give(ticket, other)
        if ticket.is_second:
            return False
        repeated = roster.choose() if ticket.failed else None
        if repeated is not None:
            again_at = ticket.since + ticket.pause_s
            if now >= again_at:
                return self._give(ticket, repeated)
            self._due = min(self._due, again_at)
            return False
        unserved_since = now if self._unserved_since is None else self._unserved_since
        lost_at = max(ticket.since, unserved_since) + roster.rules.role_loss_grace_s
        if now < lost_at and not roster.is_hopeless:
            self._due = min(self._due, lost_at)
            return False
        self._remove(ticket)
        if not ticket.begun.done():
            ticket.begun.set_exception(RoleLostError(roster.loss(ticket.what)))
        return True

    def _give(self, ticket: Ticket[Replica, Any], incarnation: Incarnation[Replica]) -> bool:
        """Whether it had room."""
        roster = self._roster
        if not roster.serves(incarnation) or not roster.has_room(incarnation):
            return False
        self._remove(ticket)
        if not ticket.begun.done():  # else who waited was cancelled in this turn of the loop
            work = roster.begin(incarnation, ticket.work, incarnation.requests, ticket.what)
            ticket.begun.set_result(Begun(incarnation, work))
        return True

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            if due == self._timer_at and not self._timer.done():
                return
            self._timer.cancel()
            self._timer = None
        if due < math.inf:
            self._timer, self._timer_at = self._roster.changes.timer(due), due
            self._timer.add_done_callback(lambda timer: None if timer.cancelled() else self._stir())
