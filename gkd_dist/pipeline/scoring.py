"""The scoring loop: teachers judge every completion token, and a reward every answer, before replay."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from gkd_dist.errors import EngineError
from gkd_dist.interfaces import Fleet
from gkd_dist.pipeline.judging import judge
from gkd_dist.pipeline.ring import Ring
from gkd_dist.pipeline.routing import spread
from gkd_dist.replay.buffer import Admission
from gkd_dist.types import ScoredTrajectory, TeacherScore, Trajectory


async def scoring_loop(ring: Ring) -> None:
    """Score every group of trajectories and admit the result to the replay."""
    for _ in range(ring.plan.max_steps):
        step, trajectories = await ring.trajectories.get()
        scored, rewards = await asyncio.gather(_scored(ring, step, trajectories), _rewards(ring, step, trajectories))
        ring.accounts.scored(step, trajectories)
        scored = [replace(item, reward=reward) for item, reward in zip(scored, rewards, strict=True)]
        for item in scored:
            verdict = await ring.replay.admit(item, ring.gate.version)
            if verdict is not Admission.ADMITTED:
                # The gate lets nothing begin that could be refused here; waiting for the batch would last for ever.
                raise EngineError(f"the replay refused {item.trajectory.sample_id}: {verdict.value}")
            ring.accounts.queued(ring.replay.depth)


async def _scored(ring: Ring, step: int, trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory]:
    with ring.accounts.timed(step, "score"):
        return await score(ring.fleet, trajectories)


async def _rewards(ring: Ring, step: int, trajectories: Sequence[Trajectory]) -> list[float | None]:
    """None for what the student did not write, and for all where the objective asks for no reward."""
    reinforcement, reward = ring.plan.reinforcement, ring.fleet.reward
    if reinforcement is None or reward is None:
        return [None] * len(trajectories)
    with ring.accounts.timed(step, "judge"):
        return await judge(reward, trajectories, reinforcement.answer_of)


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
