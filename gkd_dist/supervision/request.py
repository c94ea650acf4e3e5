"""One request until it is answered: which replica, how often, and when to give up."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from gkd_dist.errors import RoleLostError, plain
from gkd_dist.supervision.backoff import backoff_s
from gkd_dist.supervision.failures import Failure, ReplicaEndedError, classify
from gkd_dist.supervision.roster import Roster
from gkd_dist.supervision.slots import Incarnation, Replica

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Request(Generic[Replica, T]):
    """Work for any replica of a role.

    INFRA failures go to a replica that has not failed this request; where every serving one has, after a back-off to
    any. DATA failures go elsewhere too, without waiting. Each kind has its own number of attempts; then the last error
    is raised as it was. A replica that is scaled away costs no attempt.

    Args:
        what: the work in words, as in `sample`.
    """

    def __init__(self, roster: Roster[Replica], work: Callable[[Replica], Awaitable[T]], what: str) -> None:
        self._roster = roster
        self._work = work
        self._what = what
        self._failed: list[Incarnation[Replica]] = []
        self._num_failures = {Failure.INFRA: 0, Failure.DATA: 0}
        self._last = Failure.DATA
        self._blamed: Incarnation[Replica] | None = None
        """Who failed it last."""

    async def run(self, first: Incarnation[Replica] | None = None) -> T:
        """The answer.

        Args:
            first: who is asked first, if it still serves.

        Raises:
            RoleLostError: no replica served for the whole grace, or can ever serve again.
            Exception: of the last attempt.
        """
        self._roster.census.count("gkd_requests_total", self._roster.role)
        while True:
            incarnation = first if first is not None and self._roster.serves(first) else await self._next()
            first = None
            try:
                return await self._attempt(incarnation)
            except Exception as failure:
                error = failure
            if self._is_exhausted:
                raise error
            self._say(error)
            self._roster.census.count("gkd_requests_retried_total", self._roster.role, **{"class": self._last.value})

    def _say(self, error: Exception) -> None:
        """A replica that fails all that it has in hand is named once, until it answers again; what is refused, and so
        not the replica's fault, each time."""
        blamed = self._blamed
        if blamed is None:
            return
        is_news = self._last is Failure.DATA or not blamed.is_blamed
        name = f"{self._roster.role} {blamed.slot.index}"
        level = logging.WARNING if is_news else logging.DEBUG
        logger.log(level, "%s did not %s (%s); asking again", name, self._what, plain(error))
        if self._last is Failure.INFRA:
            blamed.is_blamed = True

    @property
    def _is_exhausted(self) -> bool:
        roster, rules = self._roster, self._roster.rules
        if roster.is_fixed and roster.choose(self._failed) is None:
            return True
        limit = rules.infra_attempts if self._last is Failure.INFRA else rules.data_attempts
        return self._num_failures[self._last] >= limit

    async def _next(self) -> Incarnation[Replica]:
        """Who is asked next, as soon as there is somebody."""
        roster, rules = self._roster, self._roster.rules
        again_at = lost_at = None
        while True:
            changed, now = roster.changed, roster.clock()
            fresh = roster.choose(self._failed)
            if fresh is not None:
                return fresh
            repeated = roster.choose()
            if repeated is not None:
                lost_at = None
                if again_at is None:
                    again_at = now + self._pause_s()
                if now >= again_at:
                    return repeated
                await roster.wait(changed, again_at)
                continue
            if lost_at is None:
                lost_at = now + rules.role_loss_grace_s
            if now >= lost_at or roster.is_hopeless:
                raise RoleLostError(self._loss())
            await roster.wait(changed, lost_at)

    def _pause_s(self) -> float:
        num_failures = self._num_failures[Failure.INFRA]
        return backoff_s(self._roster.rules, num_failures) if self._last is Failure.INFRA and num_failures else 0.0

    def _loss(self) -> str:
        roster = self._roster
        states = ", ".join(f"{index} is {slot.health.state}" for index, slot in sorted(roster.slots.items()))
        why = (
            "every one was restarted supervision.max_restarts times"
            if roster.is_hopeless
            else f"none came back within supervision.role_loss_grace_s ({roster.rules.role_loss_grace_s:g} s)"
        )
        return f"no {roster.role} is left to {self._what}: {why}; {states or 'none was started'}"

    async def _attempt(self, incarnation: Incarnation[Replica]) -> T:
        if self._roster.rules.hedge_after_s is None:
            return await self._try(incarnation)
        return await self._hedged(incarnation, self._roster.rules.hedge_after_s)

    async def _hedged(self, incarnation: Incarnation[Replica], after_s: float) -> T:
        """The first answer of one replica, or of two once the first is late.

        The loser goes on: it counts as work of its replica, which gets less of it then, and as a failure where it
        never ends. Were it cancelled, a straggler would look idle, and one that hangs would look well.
        """
        roster = self._roster
        tries = {self._begin(incarnation)}
        late_at = roster.clock() + after_s
        is_hedged = is_answered = False
        try:
            while True:
                changed = roster.changed
                for task in [task for task in tries if task.done()]:
                    error = task.exception()
                    if error is None or len(tries) == 1:
                        is_answered = True
                        return task.result()
                    tries.discard(task)
                if not is_hedged and roster.clock() >= late_at:
                    second = roster.choose([*self._failed, incarnation])
                    if second is not None:
                        is_hedged = True
                        tries.add(self._begin(second))
                        roster.census.count("gkd_requests_hedged_total", roster.role)
                await roster.wait(changed, late_at if roster.clock() < late_at else math.inf, *tries)
        finally:
            for task in tries:
                if not is_answered:
                    task.cancel()
                roster.keep(task)

    def _begin(self, incarnation: Incarnation[Replica]) -> "asyncio.Task[T]":
        """Try one replica beside others. It has the request in hand at once, not only when its task gets its turn: else
        requests of one moment would all go to the same replica."""
        work = self._roster.begin(incarnation, self._work, incarnation.requests, self._what)
        task = asyncio.create_task(self._finish(incarnation, work))
        task.add_done_callback(lambda _: work.cancel())  # where it is cancelled before its first turn
        return task

    async def _try(self, incarnation: Incarnation[Replica]) -> T:
        work = self._roster.begin(incarnation, self._work, incarnation.requests, self._what)
        return await self._finish(incarnation, work)

    async def _finish(self, incarnation: Incarnation[Replica], work: "asyncio.Future[T]") -> T:
        try:
            answer = await self._roster.outcome(incarnation, work, self._what)
        except Exception as error:
            self._last = classify(error)
            self._blamed = incarnation
            self._roster.census.refused(self._roster.role, error)
            self._failed.append(incarnation)
            if not (isinstance(error, ReplicaEndedError) and error.drained):
                self._num_failures[self._last] += 1
            self._roster.failed(incarnation, error)
            raise
        self._roster.succeeded(incarnation)
        return answer
