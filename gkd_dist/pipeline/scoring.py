"""The scoring loop: teachers judge every completion token, and a reward every answer, before replay."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from gkd_dist.errors import EngineError
from gkd_dist.interfaces import Fleet, Replicas, Teacher
from gkd_dist.pipeline.judging import judge
from gkd_dist.pipeline.ring import Ring
from gkd_dist.pipeline.routing import TeachersOf
from gkd_dist.replay.buffer import Admission
from gkd_dist.supervision.together import gather_all
from gkd_dist.targets import TargetsHandle
from gkd_dist.types import ScoredTrajectory, TeacherScore, Trajectory


async def scoring_loop(ring: Ring) -> None:
    """Score every group of trajectories and admit the result to the replay."""
    for _ in range(ring.plan.max_steps):
        step, trajectories = await ring.trajectories.get()
        both: list[Any] = [_scored(ring, step, trajectories), _rewards(ring, step, trajectories)]
        scored, rewards = await gather_all(both)
        ring.accounts.scored(step, scored)
        await ring.sentinel.after_scoring(step)
        scored = [replace(item, reward=reward) for item, reward in zip(scored, rewards, strict=True)]
        for item in scored:
            verdict = await ring.replay.admit(item, ring.gate.version)
            if verdict is not Admission.ADMITTED:
                # The gate lets nothing begin that could be refused here; waiting for the batch would last for ever.
                raise EngineError(f"the replay refused {item.trajectory.sample_id}: {verdict.value}")
            ring.accounts.queued(ring.replay.depth)


async def _scored(ring: Ring, step: int, trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory]:
    with ring.accounts.timed(step, "score"):
        return await score(ring.fleet, trajectories, ring.plan.teachers_of)


async def _rewards(ring: Ring, step: int, trajectories: Sequence[Trajectory]) -> list[float | None]:
    """None for what the student did not write, and for all where the objective asks for no reward."""
    reinforcement, reward = ring.plan.reinforcement, ring.fleet.reward
    if reinforcement is None or reward is None:
        return [None] * len(trajectories)
    with ring.accounts.timed(step, "judge"):
        return await judge(reward, trajectories, reinforcement.answer_of)


async def score(
    fleet: Fleet, trajectories: Sequence[Trajectory], teachers_of: TeachersOf | None = None
) -> list[ScoredTrajectory]:
    """Every trajectory with the scores of its teachers, both in their order; all teachers work at once.

    Args:
        teachers_of: names of the teachers of a sample; None: all of the fleet.

    Raises:
        EngineError: a sample has no teacher, or one that is not in the fleet; a teacher said what no model can say.
            Targets behind a handle were checked when they were encoded.
    """
    asked = [_names(fleet, trajectory, teachers_of) for trajectory in trajectories]
    columns = await gather_all(
        _column(name, replicas, [index for index, names in enumerate(asked) if name in names], trajectories)
        for name, replicas in fleet.teachers.items()
    )
    return [
        ScoredTrajectory(trajectory, tuple(column[index] for column in columns if index in column))
        for index, trajectory in enumerate(trajectories)
    ]


def _names(fleet: Fleet, trajectory: Trajectory, teachers_of: TeachersOf | None) -> Collection[str]:
    names = fleet.teachers.keys() if teachers_of is None else teachers_of(trajectory.sample_id)
    unknown = [name for name in names if name not in fleet.teachers]
    if unknown or not names:
        wanted = ", ".join(unknown) or "nobody"
        raise EngineError(
            f"{trajectory.sample_id} is to be scored by {wanted}; the teachers are {', '.join(fleet.teachers)}"
        )
    return names


async def _column(
    name: str, replicas: Replicas[Teacher], indices: Sequence[int], trajectories: Sequence[Trajectory]
) -> dict[int, TeacherScore]:
    """What one teacher says, by index of the trajectory."""
    share = [trajectories[index] for index in indices]
    targets = await replicas.spread(share, lambda teacher, part: teacher.score(part))
    for trajectory, each in zip(share, targets, strict=True):
        if not isinstance(each, TargetsHandle) and each.fault:
            raise EngineError(f"the targets of {name} for {trajectory.sample_id} cannot be learned from: {each.fault}")
    return {index: TeacherScore(name, each) for index, each in zip(indices, targets, strict=True)}
