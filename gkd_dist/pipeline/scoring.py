"""The scoring loop: teachers say what they think of every completion token, before replay."""

import asyncio
from collections.abc import Sequence

from gkd_dist.errors import EngineError
from gkd_dist.interfaces import Fleet
from gkd_dist.pipeline.ring import Ring
from gkd_dist.pipeline.routing import spread
from gkd_dist.pipeline.sentinel import check_again, due
from gkd_dist.replay.buffer import Admission
from gkd_dist.types import ScoredTrajectory, TeacherScore, Trajectory


async def scoring_loop(ring: Ring) -> None:
    """Score every group of trajectories and admit the result to the replay."""
    for _ in range(ring.plan.max_steps):
        step, trajectories = await ring.trajectories.get()
        with ring.accounts.timed(step, "score"):
            scored = await score(ring.fleet, trajectories)
        ring.accounts.scored(step, trajectories)
        await _check(ring, step)
        for item in scored:
            verdict = await ring.replay.admit(item, ring.gate.version)
            if verdict is not Admission.ADMITTED:
                # The gate lets nothing begin that could be refused here; waiting for the batch would last for ever.
                raise EngineError(f"the replay refused {item.trajectory.sample_id}: {verdict.value}")
            ring.accounts.queued(ring.replay.depth)


async def _check(ring: Ring, step: int) -> None:
    """Ask the sentinel, where it is due, before anything that was just scored can be trained on."""
    names = due(step, ring.plan.sentinel_steps)
    if names:
        with ring.accounts.timed(step, "sentinel"):
            checks = await check_again(ring.fleet, names)
        ring.accounts.checked(step, checks)


async def score(fleet: Fleet, trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory]:
    """Every trajectory with the scores of every teacher, in the order of the trajectories."""
    columns = await asyncio.gather(
        *(
            spread(replicas, trajectories, lambda teacher, share: teacher.score(share))
            for replicas in fleet.teachers.values()
        )
    )
    return [
        ScoredTrajectory(trajectory, tuple(map(TeacherScore, fleet.teachers, targets)))
        for trajectory, *targets in zip(trajectories, *columns, strict=True)
    ]
