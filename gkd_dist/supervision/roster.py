"""The slots of one role: who serves, who does which work, who is condemned, and who wants to know."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Generic, TypeVar

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import OutOfMemoryError, plain
from gkd_dist.supervision.background import Background
from gkd_dist.supervision.census import Census
from gkd_dist.supervision.changes import Changes, Clock, Sleep
from gkd_dist.supervision.failures import ReplicaEndedError
from gkd_dist.supervision.health import Event, Reason, SlotHealth, State
from gkd_dist.supervision.loads import Loads
from gkd_dist.supervision.slots import Incarnation, Launcher, Replica, Slot

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_EVENTS = 1000
"""The newest changes of state that are kept: a replica that is suspect now and then changes as long as a run lasts."""


class Roster(Generic[Replica]):
    """What the parts of a pool share. All of it runs on one event loop; between two awaits a call is atomic.

    Args:
        role: in messages, such as `sampler` or `teacher NAME`.
        max_ongoing: requests in the hands of a replica.
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
        max_ongoing: float = math.inf,
        is_fixed: bool = False,
    ) -> None:
        self.role = role
        self.launcher = launcher
        self.rules = rules
        self.clock = clock
        self.is_fixed = is_fixed
        self.census = census
        self.max_ongoing = max_ongoing
        self.changes = Changes(clock, sleep)
        self.background = Background(role)
        self.when_freed: Callable[[], None] = lambda: None
        """Called where some replica may have room that had none."""
        self.slots: dict[int, Slot[Replica]] = {}
        self.target = 0
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.num_done = 0
        """Requests and obligations that came to an end, however: who counts them sees whether anything moves."""
        self._busy_s = 0.0
        self._healthy: Loads[Replica] = Loads(self._is_chosen_from, self._healthy_ones)
        self._slots_in: dict[State, set[int]] = {State.HEALTHY: set(), State.SUSPECT: set()}
        """The suspect ones are few, while those that are healthy may be thousands."""

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

    @property
    def num_healthy(self) -> int:
        return len(self._slots_in[State.HEALTHY])

    @property
    def next_trial_at(self) -> float:
        """When a suspect replica is to be tried that is not yet."""
        now = self.clock()
        trials = (each.slot.health.trial_at for each in self._suspects() if not each.requests)
        return min((trial_at for trial_at in trials if trial_at > now), default=math.inf)

    def choose(self, avoid: Collection[Incarnation[Replica]] = ()) -> Incarnation[Replica] | None:
        """Who gets the next request: a suspect replica that it is time to try, else the one with the least to do."""
        suspects = [each for each in self._suspects() if each not in avoid]
        due = next((each for each in suspects if self._is_due(each)), None)
        if due is not None:
            return due
        healthy = self._healthy.least(avoid)
        return healthy or min(suspects, key=lambda each: len(each.requests), default=None)

    def _suspects(self) -> list[Incarnation[Replica]]:
        present = [
            self.slots[index].incarnation for index in sorted(self._slots_in[State.SUSPECT]) if index in self.slots
        ]
        return [each for each in present if each is not None and self.serves(each)]

    def has_room(self, incarnation: Incarnation[Replica]) -> bool:
        """Whether it takes one more request."""
        return len(incarnation.requests) < self.max_ongoing

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
        task = asyncio.ensure_future(_performed(work, incarnation.replica))
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
        self.when_freed()
        if incarnation.slot.health.state is State.DRAINING:
            self.notify()

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
        slot.phase = self.background.finish(self.launcher.kill(incarnation.replica))
        slot.phase.add_done_callback(lambda _: self.notify())

    def notify(self) -> None:
        """Something changed."""
        self.changes.tell()
        self.when_freed()

    def loss(self, what: str) -> str:
        """Why nobody does `what`, in words."""
        states = ", ".join(f"{index} is {slot.health.state}" for index, slot in sorted(self.slots.items()))
        why = (
            "every one was restarted supervision.max_restarts times"
            if self.is_hopeless
            else f"none came back within supervision.role_loss_grace_s ({self.rules.role_loss_grace_s:g} s)"
        )
        return f"no {self.role} is left to {what}: {why}; {states or 'none was started'}"

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
        for state, slots in self._slots_in.items():
            (slots.add if event.to_state is state else slots.discard)(event.slot)
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


async def _performed(work: Callable[[Replica], Awaitable[T]], replica: Replica) -> T:
    """What `work` raises before there is anything to wait for is its failure as well."""
    return await work(replica)


def cause_of_death(reason: Reason, error: Exception | None) -> tuple[Reason, str]:
    """For the record; want of memory is the reason wherever it was noticed."""
    return Reason.OOM if isinstance(error, OutOfMemoryError) else reason, "" if error is None else plain(error)
