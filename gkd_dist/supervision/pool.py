"""The replicas of one role as one part that does not fail while any of them works (floor F2, no Ray).

pool = Pool("sampler", launcher, rules, target=2)
await pool.start()
supervision = asyncio.create_task(pool.supervise())
await pool.bring_up(lambda sampler: sampler.load_weights(publication))
trajectories = await pool.spread(prompts, lambda sampler, share: sampler.sample(share, params))
pool.set_target(3)
"""

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Generic, TypeVar

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.interfaces import Metrics, SlotView
from gkd_dist.supervision.census import Census
from gkd_dist.supervision.given import Given
from gkd_dist.supervision.health import Event, State
from gkd_dist.supervision.obligations import Obligations
from gkd_dist.supervision.queue import Queue
from gkd_dist.supervision.request import Request
from gkd_dist.supervision.roster import Roster
from gkd_dist.supervision.signs import Signs
from gkd_dist.supervision.slots import Incarnation, Launcher, Replica, Slot
from gkd_dist.supervision.supervisor import Supervisor
from gkd_dist.supervision.together import gather_all

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(Generic[Replica]):
    """Gives work to the replicas of a role, and keeps them at work.

    Args:
        role: in messages, such as `sampler` or `teacher NAME`; its first word labels the metrics.
        launcher: starts, probes and kills replicas.
        target: slots, at least 1.
        max_ongoing: requests that a replica has in hand at most; the others wait until one has room.
        clock: seconds; only differences count.
        metrics: None reports to nobody. A census instead, where several pools are one role.
        sleep: waits for so many seconds of `clock`.

    Raises:
        ValueError: a target below 1.
    """

    def __init__(
        self,
        role: str,
        launcher: Launcher[Replica],
        rules: SupervisionConfig,
        *,
        target: int,
        max_ongoing: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | Census | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        census = metrics if isinstance(metrics, Census) else Census(metrics)
        self._roster = Roster(role, launcher, rules, clock=clock, sleep=sleep, census=census, max_ongoing=max_ongoing)
        self._queue = Queue(self._roster)
        self._signs = Signs(self._roster)
        self._obligations = Obligations(self._roster)
        self._supervisor = Supervisor(self._roster, self._signs, self._obligations)
        self._roster.target = _checked(role, target)

    @classmethod
    def of(
        cls,
        replicas: Sequence[Replica],
        rules: SupervisionConfig | None = None,
        *,
        role: str = "replica",
        metrics: Census | None = None,
        max_ongoing: float = math.inf,
    ) -> "Pool[Replica]":
        """Replicas that are there already: none is probed, ended or restarted; what fails on all of them is raised.

        Args:
            rules: how often a request is asked, and when it is hedged; None is the defaults.
        """
        given, rules = Given(replicas), rules or SupervisionConfig()
        pool = cls(role, given, rules, target=len(replicas), max_ongoing=max_ongoing, metrics=metrics)
        pool._roster.is_fixed = True
        for index, replica in enumerate(replicas):
            slot = pool._roster.add(index)
            slot.health.begin_start(pool._roster.clock())
            pool._roster.join(slot, replica)
            slot.health.caught_up(pool._roster.clock())
        pool._roster.report()
        return pool

    @property
    def target(self) -> int:
        return self._roster.target

    @property
    def serving(self) -> dict[int, Replica]:
        """By slot, in order, the suspect ones too."""
        return {incarnation.slot.index: incarnation.replica for incarnation in self._roster.serving}

    @property
    def states(self) -> dict[int, State]:
        """By slot. Slots above the target are there until they have ended."""
        return {index: self._roster.slots[index].health.state for index in sorted(self._roster.slots)}

    @property
    def slots(self) -> list[SlotView]:
        """Every slot with what runs in it, in slot order."""
        views = []
        for index, slot in sorted(self._roster.slots.items()):
            place = self._roster.launcher.describe(slot.incarnation.replica) if slot.incarnation is not None else {}
            views.append(SlotView(index, slot.health.state, slot.health.num_restarts, place, self._problem(slot)))
        return views

    def _problem(self, slot: Slot[Replica]) -> str:
        state = slot.health.state
        if state is State.RESTARTING:
            return self._roster.launcher.waits_for(slot.index)
        return slot.health.detail if state in (State.DEAD, State.RETIRED) else ""

    @property
    def num_outstanding(self) -> int:
        """Requests that replicas work on now, both copies of hedged ones."""
        slots = self._roster.slots.values()
        return sum(len(slot.incarnation.requests) for slot in slots if slot.incarnation is not None)

    @property
    def num_waiting(self) -> int:
        """Requests that wait until a replica has room."""
        return len(self._queue)

    @property
    def busy_s(self) -> float:
        """Seconds in which a replica had something in hand, added up over all replicas there ever were."""
        return self._roster.busy_s

    @property
    def num_done(self) -> int:
        """Requests and obligations that came to an end so far, however."""
        return self._roster.num_done

    @property
    def events(self) -> list[Event]:
        """The newest changes of state, oldest first; a thousand at most."""
        return list(self._roster.events)

    async def start(self) -> None:
        """Start all slots of the target at once.

        Raises:
            Exception: the first failure; nothing is left running.
        """
        try:
            await self._supervisor.start_all()
        except BaseException:
            await self._end_all(graceful=False)
            raise
        self._roster.report()

    async def supervise(self) -> None:
        """Endless: probes, restarts, catch-ups, scaling, drains. Cancel it before `close`."""
        await self._supervisor.run()

    async def call(self, work: Callable[[Replica], Awaitable[T]], what: str) -> T:
        """The answer of the replica with the least to do, or of another one where that fails (`Request` has the rules).

        Cancelling it cancels the work. Deadlines are those of the replicas.

        Args:
            what: the work in words, for messages, as in `sample`.

        Raises:
            RoleLostError: no replica served for supervision.role_loss_grace_s, or none can ever again.
            Exception: what the last attempt raised.
        """
        return await Request(self._roster, self._queue, self._signs, work, what).run()

    async def spread(
        self, items: Sequence[Item], call: Callable[[Replica, Sequence[Item]], Awaitable[list[Result]]]
    ) -> list[Result]:
        """Results of `call` over all items, in their order; each replica that serves gets an equal, contiguous share.

        Which replica is asked for which item depends on the order alone, so a run without failures repeats for a seed.
        Each share is then a `call` of its own.
        """
        firsts: list[Incarnation[Replica] | None] = [*self._roster.preferred] or [None]
        bounds = [round(len(items) * index / len(firsts)) for index in range(len(firsts) + 1)]
        shares = [items[start:stop] for start, stop in itertools.pairwise(bounds)]

        async def ask(first: Incarnation[Replica] | None, share: Sequence[Item]) -> list[Result]:
            request = Request(
                self._roster, self._queue, self._signs, lambda replica: call(replica, share), "take its share"
            )
            return await request.run(first)

        parts = await gather_all(ask(first, share) for first, share in zip(firsts, shares, strict=True) if share)
        return [result for part in parts for result in part]

    async def bring_up(self, obligation: Callable[[Replica], Awaitable[object]]) -> None:
        """Do `obligation` on every replica that serves, and on each that is started or taken back before it serves.

        A newer one takes its place: a replica that is late does the newest alone. A replica that fails it is
        condemned, and the others go on. So they do without one that takes longer than supervision.catch_up_timeout_s
        while another has done it: that one serves again once it has caught up. Returns when every replica that still
        serves has done it.

        Raises:
            Exception: with fixed replicas, the first failure.
        """
        await self._obligations.bring_up(obligation)

    def require(self, obligation: Callable[[Replica], Awaitable[object]], done_by: Collection[Replica]) -> None:
        """As `bring_up`, for all but `done_by`: another one that serves already serves no more until it has done it,
        too."""
        self._obligations.require(obligation, done_by)

    def set_target(self, target: int) -> None:
        """Converge to so many slots, while `supervise` runs. New ones catch up before they serve; the highest ones are
        drained, and get no more requests from now on. Retired ones are tried anew: somebody asks for them.

        Raises:
            ValueError: a target below 1, or fixed replicas.
        """
        if self._roster.is_fixed:
            raise ValueError("these replicas are given; their number cannot change")
        self._roster.target = _checked(self._roster.role, target)
        self._supervisor.reopen()
        self._supervisor.apply_target()
        self._roster.notify()

    async def close(self) -> None:
        """End all replicas: those that serve are closed, then every one is killed.

        Raises:
            Exception: of the first close that failed, once all were told.
        """
        await self._end_all(graceful=True)

    async def _end_all(self, graceful: bool) -> None:
        roster = self._roster
        self._queue.close()
        await roster.background.end()
        incarnations = [slot.incarnation for slot in roster.slots.values() if slot.incarnation is not None]
        serving = roster.serving if graceful else []
        for incarnation in incarnations:
            incarnation.end(drained=False)
        results = await asyncio.gather(*(each.replica.close() for each in serving), return_exceptions=True)
        await asyncio.gather(*(roster.launcher.kill(each.replica) for each in incarnations))
        roster.slots.clear()
        roster.notify()
        for result in results:
            if isinstance(result, BaseException):
                raise result


def _checked(role: str, target: int) -> int:
    if target < 1:
        raise ValueError(f"a run needs at least 1 {role}, got {target}")
    return target
