"""The sentinel: before the run and every so many steps, each teacher answers golden sequences once more.

A teacher that answers as it should costs one small scoring call. It is asked while it scores nothing else, so that the
batches of the run are what they would be without it.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from gkd_dist.errors import EngineError, ModelError
from gkd_dist.interfaces import Fleet, Teacher
from gkd_dist.types import TeacherCheck


async def check_at_start(fleet: Fleet) -> list[TeacherCheck]:
    """Verify every replica of every teacher.

    Raises:
        ModelError: one does not answer as it should.
    """
    checks = await _verify(fleet.teachers)
    for name, check in checks:
        if not check.passed:
            raise ModelError(
                f"{name} is refused: {check}; its hidden states or its readout are not what its engine computes with: "
                "check the model's folder, or use another teacher.transport"
            )
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
