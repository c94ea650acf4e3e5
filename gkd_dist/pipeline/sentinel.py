"""The sentinel: before the run, every so many steps and at its end, each teacher answers golden sequences once more.

A teacher that answers as it should costs one small scoring call. In synchronous runs it is asked while it scores
nothing else, so that the batches of the run are what they would be without it.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from operator import methodcaller
from typing import TypeVar

from gkd_dist.checks import TeacherCheck
from gkd_dist.errors import ModelError, TeacherChangedError, plain
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Teacher
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.supervision.failures import Failure, classify
from gkd_dist.supervision.together import gather_all

logger = logging.getLogger(__name__)

T = TypeVar("T")

AT_ONCE = 64
"""Replicas that are checked together."""

_LOOK_AT_WEIGHTS = "look at the weights of teacher.model, or at the server that answers"
_LOOK_AT_HEAD = (
    "the learner would make other log-probs of its hidden states than the engine does: look at config.json and LM head "
    "of teacher.model, or use a teacher.transport other than hidden"
)


@dataclass(frozen=True)
class ReplicaName:
    """One replica of a teacher, as messages call it."""

    name: str
    slot: int

    def __str__(self) -> str:
        return f"{self.name} {self.slot}" if self.name == "teacher" else f"teacher {self.name} {self.slot}"


async def check_at_start(
    fleet: Fleet,
    record: Callable[[Sequence[TeacherCheck]], None] = lambda _: None,
    progressed: Callable[[], None] = lambda: None,
) -> dict[ReplicaName, TeacherCheck]:
    """Verify every replica of every teacher, and hold the replicas of one teacher against each other; one that joins
    later, or while this goes on, is held to them before it serves.

    Args:
        record: told what was found, also where it is refused.
        progressed: told of every answer.

    Raises:
        ModelError: one does not answer as it should, or as its replicas do.
    """
    verified = await _verify(fleet, progressed)
    checks = {replica: check for replica, (_, check) in verified.items()}
    record(list(checks.values()))
    for replica, check in checks.items():
        if not check.passed:
            remedy = _LOOK_AT_WEIGHTS if check.fault else _LOOK_AT_HEAD
            raise ModelError(f"{replica} is refused: {check}; {remedy}")
    _compare_replicas(checks)
    _guard_newcomers(fleet, checks, [teacher for teacher, _ in verified.values()])
    return checks


def _guard_newcomers(fleet: Fleet, checks: Mapping[ReplicaName, TeacherCheck], verified: Collection[Teacher]) -> None:
    """Hold every replica of a teacher that is not `verified` to what its teacher's first replica answered."""
    first: dict[str, tuple[ReplicaName, TeacherCheck]] = {}
    for replica, check in checks.items():
        first.setdefault(replica.name, (replica, check))
    for name, (model, expected) in first.items():

        async def answers_alike(
            teacher: Teacher, model: ReplicaName = model, expected: TeacherCheck = expected
        ) -> None:
            check = await teacher.verify()
            if not check.passed:
                raise ModelError(f"a new replica of {model.name} is refused: {check}")
            if difference := _difference(model, expected, check):
                raise ModelError(f"a new replica of {model.name} is refused: {difference}")

        fleet.teachers[name].require(answers_alike, verified)


def _compare_replicas(checks: Mapping[ReplicaName, TeacherCheck]) -> None:
    """Raise ModelError where a replica answers other than the first of its teacher: all of them teach one student."""
    first: dict[str, tuple[ReplicaName, TeacherCheck]] = {}
    for replica, check in checks.items():
        model, expected = first.setdefault(replica.name, (replica, check))
        if difference := _difference(model, expected, check):
            raise ModelError(f"{replica} is refused: {difference}")


def _difference(model: ReplicaName, expected: TeacherCheck, check: TeacherCheck) -> str:
    """How the answers of two replicas differ; empty where they are those of one model."""
    gaps = [abs(one - other) for one, other in zip(expected.top_log_probs, check.top_log_probs, strict=True)]
    if check.tolerance.allows(gaps):
        return ""
    return (
        f"it is not the same model as {model}: their log-probs at {len(gaps)} golden tokens differ by up to "
        f"{max(gaps):.3g} nats (allowed {check.tolerance.max_nats:g}), {sum(gaps) / len(gaps):.2g} on average (allowed "
        f"{check.tolerance.mean_nats:g}); {_LOOK_AT_WEIGHTS}"
    )


class Sentinel:
    """Asks the teachers again while a run goes on; all of them were checked before it.

    Args:
        steps_between: by teacher; 0 is never.
        step: train steps that were done when all of them were checked.
        former: of the same engines, before the run went back to `step`.
        trust: told how many train steps were done when the last of them was checked with success.
    """

    def __init__(
        self,
        fleet: Fleet,
        steps_between: Mapping[str, int],
        accounts: StepAccounts,
        step: int = 0,
        former: "Sentinel | None" = None,
        trust: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._fleet = fleet
        self._steps_between = steps_between
        self._accounts = accounts
        # What is trained again is new, but those who score it have not been asked since.
        self._begin = {name: min(step, former.last_good(name) if former else step) for name in steps_between}
        self._last_good: dict[str, int] = {}
        """Of the checks since then."""
        self.refusal: TeacherChangedError | None = None
        """Raised once: from then on nothing may be kept."""
        self._trust = trust
        self._tell()

    def last_good(self, name: str) -> int:
        """Train steps that were done at the last good check of a teacher."""
        return self._last_good.get(name, self._begin[name])

    async def before_step(self, step: int) -> None:
        """Check who is due at `step`, before anything that was just scored is trained on.

        Raises:
            TeacherChangedError: one does not answer as it did.
            EngineError: none of a teacher's replicas answers.
        """
        names = due(step, self._steps_between)
        if names:
            with self._accounts.timed("sentinel"):
                checks = await self._ask(names)
            self._judge(step, checks)
            self._last_good.update(dict.fromkeys(names, step))
            self._tell()

    async def at_end(self, num_steps: int) -> None:
        """Check who has scored since its last check.

        Raises:
            TeacherChangedError: one does not answer as it did.
            EngineError: none of a teacher's replicas answers.
        """
        names = [name for name, steps in self._steps_between.items() if steps and not self._checked_at(name, num_steps)]
        if names and num_steps:
            self._judge(None, await self._ask(names))

    async def _ask(self, names: Sequence[str]) -> dict[ReplicaName, TeacherCheck]:
        return await _verify_living(self._fleet, names, self._accounts.progressed)

    def _tell(self) -> None:
        watched = [self.last_good(name) for name, steps in self._steps_between.items() if steps]
        if watched:
            self._trust(min(watched))

    def _checked_at(self, name: str, num_steps: int) -> bool:
        return self._last_good.get(name) == num_steps - 1

    def _judge(self, step: int | None, checks: Mapping[ReplicaName, TeacherCheck]) -> None:
        self._accounts.checked(step, list(checks.values()))
        for replica, check in checks.items():
            if not check.passed:
                last = self.last_good(replica.name)
                when = f"at step {last}" if last else "before the first step"
                self.refusal = TeacherChangedError(
                    f"{replica} no longer answers as it should: {check}; its last good check was {when}: do not trust "
                    "what was trained on its scores since then",
                    last,
                )
                raise self.refusal


def due(step: int, steps_between: Mapping[str, int]) -> list[str]:
    """The teachers that are checked at this step: every so many steps after the first, 0 is never."""
    return [name for name, steps in steps_between.items() if steps and step and step % steps == 0]


async def _verify(fleet: Fleet, progressed: Callable[[], None]) -> dict[ReplicaName, tuple[Teacher, TeacherCheck]]:
    async def verify(_: ReplicaName, teacher: Teacher) -> tuple[Teacher, TeacherCheck]:
        check = await teacher.verify()
        progressed()
        return teacher, check

    return await _each(fleet, fleet.teachers, verify)


async def _verify_living(
    fleet: Fleet, names: Sequence[str], progressed: Callable[[], None]
) -> dict[ReplicaName, TeacherCheck]:
    """As `_verify`, but a replica that dies meanwhile is left to supervision. One of each teacher answers at least."""

    async def verify(replica: ReplicaName, teacher: Teacher) -> TeacherCheck | None:
        check = None
        try:
            check = await teacher.verify()
        except Exception as error:
            if classify(error) is not Failure.INFRA:
                raise
            logger.warning("%s is not checked: %s", replica, plain(error))
        progressed()
        return check

    answers = await _each(fleet, names, verify)
    checks: dict[ReplicaName, TeacherCheck] = {}
    for name in names:
        found = {replica: check for replica, check in answers.items() if check is not None and replica.name == name}
        again = methodcaller("verify")
        checks |= found or {ReplicaName(name, 0): await fleet.teachers[name].call(again, "verify its answers")}
    return checks


async def _each(
    fleet: Fleet, names: Collection[str], ask: Callable[[ReplicaName, Teacher], Awaitable[T]]
) -> dict[ReplicaName, T]:
    """What `ask` says of every replica of these teachers that serves, in their order.

    Many are asked at once, but replicas that are one server, or one process, in turn: sequences that are asked together
    share a batch there, and its rounding.
    """
    room, turns = asyncio.Semaphore(AT_ONCE), defaultdict[str, asyncio.Lock](asyncio.Lock)

    async def asked(replica: ReplicaName, teacher: Teacher) -> T:
        shared = fleet.shared.get(replica.name)
        async with nullcontext() if shared is None else turns[shared], room:
            return await ask(replica, teacher)

    replicas = {
        ReplicaName(name, slot): teacher for name in names for slot, teacher in fleet.teachers[name].serving.items()
    }
    answers = await gather_all(asked(replica, teacher) for replica, teacher in replicas.items())
    return dict(zip(replicas, answers, strict=True))
