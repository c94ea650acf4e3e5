"""A slot, and the replicas that fill it one after the other."""

import asyncio
from typing import Any, Generic, Protocol, TypeVar

from gkd_dist.closing import Closable
from gkd_dist.supervision.health import SlotHealth

Replica = TypeVar("Replica", bound=Closable)


class Launcher(Protocol[Replica]):
    """Starts and ends the replicas of one role."""

    async def start(self, slot: int) -> Replica:
        """A replica that is ready to work. A start that is cancelled leaves nothing running.

        Raises:
            ResourceError, DeadlineError: there is no room for it now.
            Exception: it cannot be started, such as EngineError.
        """
        ...

    async def probe(self, replica: Replica) -> None:
        """Ask for a sign of life, within a deadline of its own.

        Raises:
            Exception: there was none.
        """
        ...

    async def kill(self, replica: Replica) -> None:
        """End it, whatever its state; never raises."""
        ...

    def waits_for(self, slot: int) -> str:
        """What the start of a slot that is under way lacks, such as room in the cluster; empty: nothing is known."""
        ...

    def describe(self, replica: Replica) -> dict[str, str | int]:
        """Where it runs: `pid`, `node`."""
        ...


class Slot(Generic[Replica]):
    """A numbered place of a role: its health, and its present replica where one runs."""

    def __init__(self, index: int, health: SlotHealth) -> None:
        self.index = index
        self.health = health
        self.incarnation: Incarnation[Replica] | None = None
        self.phase: asyncio.Task[None] | None = None
        """What is being done to it: a start, a catch-up or an end."""

    @property
    def is_busy(self) -> bool:
        return self.phase is not None and not self.phase.done()


class Incarnation(Generic[Replica]):
    """One replica from its start to its end, and the work it has in hand."""

    def __init__(self, slot: Slot[Replica], replica: Replica, now: float) -> None:
        self.slot = slot
        self.replica = replica
        self.requests: set[asyncio.Future[Any]] = set()
        self.duties: set[asyncio.Future[Any]] = set()
        """Obligations under way."""
        self.busy_since: float | None = None
        """While it has requests or duties in hand."""
        self.fulfilled = 0
        """Number of the newest obligation it has done."""
        self.turn = asyncio.Lock()
        """Obligations are done one after the other."""
        self.is_blamed = False
        """It failed a request, which was said, and has answered none since then."""
        self.ended = False
        self.drained = False
        """It ended because it was scaled away."""
        self.probed_at = now
        """Or when it last had shown by an answer that it needs no probe."""
        self.answered_at = now
        """When it last answered a request; else when it started."""
        self.probes: set[asyncio.Task[None]] = set()

    def end(self, drained: bool) -> None:
        """Give up all work in hand; whoever waits for it is told at once."""
        self.ended = True
        self.drained = drained
        current = asyncio.current_task()
        for task in {*self.requests, *self.duties, *self.probes} - {current}:
            task.cancel()
