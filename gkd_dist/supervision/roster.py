"""The slots of one role: who serves, who does which work, who is condemned, and who wants to know."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Generic, TypeVar

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import EngineError, OutOfMemoryError, WeightsError, plain
from gkd_dist.supervision.census import Census
from gkd_dist.supervision.failures import Failure, ReplicaEndedError, classify
from gkd_dist.supervision.health import Event, Reason, SlotHealth, State
from gkd_dist.supervision.loads import Loads
from gkd_dist.supervision.slots import Incarnation, Launcher, Replica, Slot

logger = logging.getLogger(__name__)

T = TypeVar("T")
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]

MAX_EVENTS = 1000
"""The newest changes of state that are kept: a replica that is suspect now and then changes as long as a run lasts."""


class Roster(Generic[Replica]):
    """What the parts of a pool share. All of it runs on one event loop; between two awaits a call is atomic.

    Args:
        role: in messages, such as `sampler` or `teacher NAME`.
        is_fixed: nothing is probed, condemned or restarted.
    """

    def __init__(
        self,
        role: str,
        launcher: Launcher[Replica],
        rules: SupervisionConfig,
        *,
        clock: Clock,
        sleep: Sleep,
        census: Census,
        is_fixed: bool = False,
    ) -> None:
        self.role = role
        self.launcher = launcher
        self.rules = rules
        self.clock = clock
        self.is_fixed = is_fixed
        self.census = census
        self.slots: dict[int, Slot[Replica]] = {}
        self.target = 0
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.obligation: Callable[[Replica], Awaitable[object]] | None = None
        self.newest = 0
        """Number of the newest obligation; 0 is none."""
        self.num_done = 0
        """Requests and obligations that came to an end, however: who counts them sees whether anything moves."""
        self.changed = asyncio.Event()
        """Set once at the next change of any slot, and then replaced: take it before looking, then wait."""
        self._sleep = sleep
        self._busy_s = 0.0
        self._healthy: Loads[Replica] = Loads(self._is_chosen_from, self._healthy_ones)
        self._suspects: set[int] = set()
        """Slots; few, while those that are healthy may be thousands."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ends: set[asyncio.Task[None]] = set()

    @property
    def serving(self) -> list[Incarnation[Replica]]:
        """In slot order, the suspect ones too."""
        slots = [self.slots[index] for index in sorted(self.slots)]
        return [
            slot.incarnation
            for slot in slots
            if slot.incarnation is not None and slot.health.serves and not slot.incarnation.ended
        ]

    @property
    def busy_s(self) -> float:
        """As `Pool.busy_s`."""
        now, at_work = self.clock(), [slot.incarnation for slot in self.slots.values()]
        return self._busy_s + sum(now - each.busy_since for each in at_work if each and each.busy_since is not None)

    @property
    def preferred(self) -> list[Incarnation[Replica]]:
        """Those that requests are meant for, in slot order: the healthy ones and those that it is time to try;
        the suspect ones where there are no others."""
        serving = self.serving
        return [each for each in serving if self._is_healthy(each) or self._is_due(each)] or serving

    @property
    def is_hopeless(self) -> bool:
        """No slot can ever serve again."""
        return all(slot.health.state is State.RETIRED for slot in self.slots.values())

    def choose(self, avoid: Collection[Incarnation[Replica]] = ()) -> Incarnation[Replica] | None:
        """Who gets the next request: a suspect replica that it is time to try, else the one with the least to do."""
        present = [self.slots[index].incarnation for index in sorted(self._suspects) if index in self.slots]
        suspects = [each for each in present if each is not None and self.serves(each) and each not in avoid]
        due = next((each for each in suspects if self._is_due(each)), None)
        if due is not None:
            return due
        healthy = self._healthy.least(avoid)
        return healthy or min(suspects, key=lambda each: len(each.requests), default=None)

    def serves(self, incarnation: Incarnation[Replica]) -> bool:
        """Whether it is the present replica of its slot, and takes requests."""
        slot = incarnation.slot
        is_present = slot.incarnation is incarnation and self.slots.get(slot.index) is slot
        return is_present and slot.health.serves and not incarnation.ended

    def add(self, index: int) -> Slot[Replica]:
        """A new slot, dead until it is started."""
        health = SlotHealth(index, self.rules, self.clock(), self._record)
        self.slots[index] = Slot(index, health)
        return self.slots[index]

    def join(self, slot: Slot[Replica], replica: Replica) -> Incarnation[Replica]:
        """`replica` was started for `slot`, and has to catch up."""
        slot.incarnation = Incarnation(slot, replica, self.clock())
        facts = self.launcher.describe(replica)
        slot.health.started(self.clock(), " ".join(f"{key}={value}" for key, value in facts.items()))
        return slot.incarnation

    def begin(
        self,
        incarnation: Incarnation[Replica],
        work: Callable[[Replica], Awaitable[T]],
        tasks: set[asyncio.Future[Any]],
        what: str,
    ) -> "asyncio.Future[T]":
        """Begin `work` on one replica: from now on, and for as long as it lasts, it counts among `tasks` (its requests
        or its duties), and ends with the replica.

        Raises:
            ReplicaEndedError: the replica was ended since it was chosen.
        """
        if incarnation.ended:
            raise self._ended_while(incarnation, what)
        task = asyncio.ensure_future(work(incarnation.replica))
        if incarnation.busy_since is None:
            incarnation.busy_since = self.clock()
        tasks.add(task)
        self._healthy.changed(incarnation)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: self._is_done(incarnation))
        return task

    async def outcome(self, incarnation: Incarnation[Replica], task: "asyncio.Future[T]", what: str) -> T:
        """What came of what `begin` began; cancelling it cancels the work.

        Raises:
            ReplicaEndedError: the replica was ended meanwhile.
            Exception: what the work raised.
        """
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise  # the caller no longer wants it
            raise self._ended_while(incarnation, what) from None

    def _ended_while(self, incarnation: Incarnation[Replica], what: str) -> ReplicaEndedError:
        name = f"{self.role} {incarnation.slot.index}"
        return ReplicaEndedError(f"{name} was ended while asked to {what}", incarnation.drained)

    def _is_done(self, incarnation: Incarnation[Replica]) -> None:
        self.num_done += 1
        if incarnation.busy_since is not None and not (incarnation.requests or incarnation.duties):
            self._busy_s += self.clock() - incarnation.busy_since
            incarnation.busy_since = None
        self._healthy.changed(incarnation)
        if incarnation.slot.health.state is State.DRAINING:
            self.notify()

    def succeeded(self, incarnation: Incarnation[Replica]) -> None:
        """A request was answered."""
        incarnation.is_blamed = False
        if not incarnation.ended:
            incarnation.slot.health.request_succeeded(self.clock())

    def failed(self, incarnation: Incarnation[Replica], error: Exception) -> None:
        """A request failed. The replica is probed where the error may mean that it is dead."""
        if incarnation.ended or self.is_fixed or classify(error) is Failure.DATA:
            return
        if isinstance(error, OutOfMemoryError):  # known to be dead
            self.condemn(incarnation, Reason.DIED, error)
            return
        if isinstance(error, WeightsError):  # it serves with weights that it should not have
            self.condemn(incarnation, Reason.OBLIGATION, error)
            return
        incarnation.slot.health.request_failed(self.clock(), plain(error))
        self.settle(incarnation)
        if isinstance(error, EngineError) and not incarnation.ended and not incarnation.probes:
            self.probe(incarnation, condemn=True)

    def probe(self, incarnation: Incarnation[Replica], condemn: bool = False) -> None:
        """Ask for a sign of life, in the background; without one it is condemned, or its probes count one failure."""
        incarnation.probed_at = self.clock()
        task = self.spawn(self._probe(incarnation, condemn))
        incarnation.probes.add(task)
        task.add_done_callback(incarnation.probes.discard)

    async def _probe(self, incarnation: Incarnation[Replica], condemn: bool) -> None:
        try:
            await self.launcher.probe(incarnation.replica)
        except Exception as error:
            if incarnation.ended:
                return
            if condemn or isinstance(error, OutOfMemoryError):
                self.condemn(incarnation, Reason.DIED, error)
            else:
                incarnation.slot.health.probe_failed(self.clock(), plain(error))
                self.settle(incarnation)
        else:
            if not incarnation.ended:
                incarnation.slot.health.probe_succeeded(self.clock())

    def condemn(self, incarnation: Incarnation[Replica], reason: Reason, error: Exception | None = None) -> None:
        """Its slot is dead from now on: the replica is killed, and what it had in hand goes elsewhere.

        Args:
            error: that led here.
        """
        incarnation.slot.health.die(self.clock(), *cause_of_death(reason, error))
        self.settle(incarnation, drained=reason is Reason.SCALED)

    def settle(self, incarnation: Incarnation[Replica], drained: bool = False) -> None:
        """End a replica whose slot has just died; nothing where it lives."""
        slot = incarnation.slot
        if slot.health.state not in (State.DEAD, State.RETIRED):
            return
        slot.incarnation = None
        incarnation.end(drained)
        slot.phase = asyncio.create_task(self.launcher.kill(incarnation.replica))
        self._ends.add(slot.phase)
        slot.phase.add_done_callback(self._ends.discard)
        slot.phase.add_done_callback(lambda _: self.notify())

    async def fulfil(self, incarnation: Incarnation[Replica], number: int) -> None:
        """Do the newest obligation, unless number `number` or a newer one is done; one at a time.

        Raises:
            ReplicaEndedError: it was ended meanwhile.
            Exception: what the obligation raised.
        """
        async with incarnation.turn:
            while incarnation.fulfilled < number and self.obligation is not None:
                newest = self.newest
                try:
                    begun = self.begin(incarnation, self.obligation, incarnation.duties, "catch up")
                    answer = await self.outcome(incarnation, begun, "catch up")
                except Exception as error:
                    self.census.failed(self.role, error)
                    raise
                incarnation.fulfilled = max(incarnation.fulfilled, newest)  # `require` may have gone on meanwhile
                self.census.fulfilled(self.role, incarnation.slot.index, answer)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work in the background that ends with the pool."""
        task = asyncio.create_task(work)
        self.keep(task)
        return task

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Remember a task that nobody waits for, and log what it raises."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.debug("%s, in the background: %r", self.role, task.exception())

    async def cancel_all(self) -> None:
        """End what runs in the background, but for kills: those are waited for."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._ends, return_exceptions=True)

    def notify(self) -> None:
        """Something changed."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def wait(self, changed: asyncio.Event, until: float, *others: asyncio.Future[Any]) -> None:
        """Return at the change, when the clock says `until`, or when one of `others` is done."""
        change = asyncio.ensure_future(changed.wait())
        timers = [] if until == math.inf else [self.timer(until - self.clock())]
        try:
            await asyncio.wait([change, *timers, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (change, *timers):
                task.cancel()

    def timer(self, seconds: float) -> asyncio.Future[Any]:
        """Done after so many seconds."""
        return asyncio.ensure_future(self._sleep(max(0.0, seconds)))

    def report(self) -> None:
        """The numbers of replicas, to the census."""
        states = {index: self.slots[index].health.state for index in sorted(self.slots)}
        self.census.report(self.role, states, self.target)

    def _record(self, event: Event) -> None:
        self.events.append(event)
        self._follow(event)
        level = logging.WARNING if event.to_state in (State.DEAD, State.RETIRED) else logging.INFO
        logger.log(
            level,
            "%s %d: %s -> %s (%s) %s",
            self.role,
            event.slot,
            event.from_state,
            event.to_state,
            event.reason,
            event.detail,
        )
        if event.to_state is State.RESTARTING and event.reason is not Reason.NEW:
            self.census.count("gkd_replica_restarts_total", self.role, reason=event.reason.value)
        self.notify()  # the pass that it brings about reports: thousands of changes at once are one report

    def _follow(self, event: Event) -> None:
        """Keep apart who is healthy and who is suspect."""
        if event.to_state is State.SUSPECT:
            self._suspects.add(event.slot)
        else:
            self._suspects.discard(event.slot)
        slot = self.slots.get(event.slot)
        if event.to_state is State.HEALTHY and slot is not None and slot.incarnation is not None:
            self._healthy.changed(slot.incarnation)

    def _is_chosen_from(self, incarnation: Incarnation[Replica]) -> bool:
        return self._is_healthy(incarnation) and self.serves(incarnation)

    def _healthy_ones(self) -> list[Incarnation[Replica]]:
        return [each for each in self.serving if self._is_healthy(each)]

    def _is_healthy(self, incarnation: Incarnation[Replica]) -> bool:
        return incarnation.slot.health.state is State.HEALTHY

    def _is_due(self, incarnation: Incarnation[Replica]) -> bool:
        return not incarnation.requests and incarnation.slot.health.may_be_tried(self.clock())


def cause_of_death(reason: Reason, error: Exception | None) -> tuple[Reason, str]:
    """For the record; want of memory is the reason wherever it was noticed."""
    return Reason.OOM if isinstance(error, OutOfMemoryError) else reason, "" if error is None else plain(error)
