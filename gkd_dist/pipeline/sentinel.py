"""The sentinel: before the run and every so many steps, each teacher answers golden sequences once more.

A teacher that answers as it should costs one small scoring call. It is asked while it scores nothing else, so that the
batches of the run are what they would be without it.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from gkd_dist.errors import EngineError, ModelError
from gkd_dist.interfaces import Fleet, Teacher
from gkd_dist.types import TeacherCheck

_LOOK_AT_WEIGHTS = "look at the weights of teacher.model, or at the server that answers"
_LOOK_AT_HEAD = (
    "the learner would make other log-probs of its hidden states than the engine does: look at config.json and LM head "
    "of teacher.model, or use a teacher.transport other than hidden"
)


async def check_at_start(fleet: Fleet) -> list[TeacherCheck]:
    """Verify every replica of every teacher.

    Raises:
        ModelError: one does not answer as it should.
    """
    checks = await _verify(fleet.teachers)
    for name, check in checks:
        if not check.passed:
            remedy = _LOOK_AT_WEIGHTS if check.fault else _LOOK_AT_HEAD
            raise ModelError(f"{name} is refused: {check}; {remedy}")
    return [check for _, check in checks]


async def check_again(fleet: Fleet, names: Collection[str]) -> list[TeacherCheck]:
    """Verify every replica of the teachers called `names`.

    Raises:
        EngineError: one does not answer as it did.
    """
    checks = await _verify({name: fleet.teachers[name] for name in names})
    for name, check in checks:
        if not check.passed:
            raise EngineError(f"{name} no longer answers as it should: {check}; nothing was trained on its last scores")
    return [check for _, check in checks]


def due(step: int, sentinel_steps: Mapping[str, int]) -> list[str]:
    """The teachers that are checked at this step: every so many steps after the first, 0 is never."""
    return [name for name, steps in sentinel_steps.items() if steps and step and step % steps == 0]


async def _verify(teachers: Mapping[str, Sequence[Teacher]]) -> list[tuple[str, TeacherCheck]]:
    named = [
        (f"{name} {slot}" if name == "teacher" else f"teacher {name} {slot}", teacher)
        for name, replicas in teachers.items()
        for slot, teacher in enumerate(replicas)
    ]
    checks = await asyncio.gather(*(teacher.verify() for _, teacher in named))
    return [(name, check) for (name, _), check in zip(named, checks, strict=True)]
