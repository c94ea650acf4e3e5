"""One request until it is answered: which replica, how often, and when to give up."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from gkd_dist.errors import plain
from gkd_dist.supervision.backoff import backoff_s
from gkd_dist.supervision.failures import Failure, ReplicaEndedError, classify
from gkd_dist.supervision.queue import Begun, Queue, Ticket
from gkd_dist.supervision.roster import Roster
from gkd_dist.supervision.signs import Signs
from gkd_dist.supervision.slots import Incarnation, Replica

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Request(Generic[Replica, T]):
    """Work for any replica of a role; where none has room it waits its turn.

    INFRA failures go to a replica that has not failed this request; where every serving one has, after a back-off to
    any. DATA failures go elsewhere too, without waiting. Each kind has its own number of attempts; then the last error
    is raised as it was. A replica that is scaled away costs no attempt.

    Args:
        what: the work in words, as in `sample`.
    """

    def __init__(
        self,
        roster: Roster[Replica],
        queue: Queue[Replica],
        signs: Signs[Replica],
        work: Callable[[Replica], Awaitable[T]],
        what: str,
    ) -> None:
        self._roster = roster
        self._queue = queue
        self._signs = signs
        self._work = work
        self._what = what
        self._number = queue.number()
        self._failed: list[Incarnation[Replica]] = []
        self._num_failures = {Failure.INFRA: 0, Failure.DATA: 0}
        self._last = Failure.DATA
        self._blamed: Incarnation[Replica] | None = None
        """Who failed it last."""

    async def run(self, first: Incarnation[Replica] | None = None) -> T:
        """The answer.

        Args:
            first: who is asked first, if it still serves and has room.

        Raises:
            RoleLostError: no replica served for the whole grace, or can ever serve again.
            Exception: of the last attempt.
        """
        self._roster.census.count("gkd_requests_total", self._roster.role)
        while True:
            begun = await self._queue.begin(self._ticket(first=first))
            first = None
            try:
                return await self._attempt(begun)
            except Exception as failure:
                error = failure
            if self._is_exhausted:
                raise error
            self._say(error)
            self._roster.census.count("gkd_requests_retried_total", self._roster.role, **{"class": self._last.value})

    def _ticket(self, *beside: Incarnation[Replica], first: Incarnation[Replica] | None = None) -> Ticket[Replica, T]:
        """For the next attempt, or for a second one beside that of a replica."""
        return Ticket(
            self._number,
            self._work,
            self._what,
            failed=(*self._failed, *beside),
            pause_s=self._pause_s(),
            first=first,
            is_second=bool(beside),
        )

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

    def _pause_s(self) -> float:
        num_failures = self._num_failures[Failure.INFRA]
        return backoff_s(self._roster.rules, num_failures) if self._last is Failure.INFRA and num_failures else 0.0

    async def _attempt(self, begun: Begun[Replica, T]) -> T:
        if self._roster.rules.hedge_after_s is None:
            return await self._finish(begun)
        return await self._hedged(begun, self._roster.rules.hedge_after_s)

    async def _hedged(self, begun: Begun[Replica, T], after_s: float) -> T:
        """The first answer of one replica, or of two once the first is late; a second one has to have room.

        The loser goes on: it counts as work of its replica, which gets less of it then, and as a failure where it
        never ends. Were it cancelled, a straggler would look idle, and one that hangs would look well.
        """
        roster = self._roster
        tries = {self._trial(begun)}
        late_at = roster.clock() + after_s
        second: Ticket[Replica, T] | None = None
        is_second_begun = is_answered = False
        try:
            while True:
                for task in [task for task in tries if task.done()]:
                    error = task.exception()
                    if error is None or len(tries) == 1:
                        is_answered = True
                        return task.result()
                    tries.discard(task)
                if second is None and roster.clock() >= late_at:
                    second = self._ticket(begun.incarnation)
                    self._queue.enter(second)
                if second is not None and second.begun.done() and not is_second_begun:
                    is_second_begun = True
                    tries.add(self._trial(second.begun.result()))
                    roster.census.count("gkd_requests_hedged_total", roster.role)
                waited_for = [] if second is None or is_second_begun else [second.begun]
                await roster.changes.wait_for(late_at if second is None else math.inf, *waited_for, *tries)
        finally:
            if second is not None and not is_second_begun:
                self._queue.withdraw(second)
            for task in tries:
                if not is_answered:
                    task.cancel()
                roster.background.keep(task)

    def _trial(self, begun: Begun[Replica, T]) -> "asyncio.Task[T]":
        """What becomes of one replica's attempt, beside others."""
        task = asyncio.create_task(self._finish(begun))
        task.add_done_callback(lambda _: begun.work.cancel())  # where it is cancelled before its first turn
        return task

    async def _finish(self, begun: Begun[Replica, T]) -> T:
        incarnation = begun.incarnation
        try:
            answer = await self._roster.outcome(incarnation, begun.work, self._what)
        except Exception as error:
            self._last = classify(error)
            self._blamed = incarnation
            self._roster.census.refused(self._roster.role, error)
            self._failed.append(incarnation)
            if not (isinstance(error, ReplicaEndedError) and error.drained):
                self._num_failures[self._last] += 1
            self._signs.failed(incarnation, error)
            raise
        self._signs.answered(incarnation)
        return answer
