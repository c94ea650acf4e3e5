"""Scoring: teachers judge every completion token, and a reward every answer, before replay."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import groupby
from typing import Any

from gkd_dist.errors import EngineError, RejectedError
from gkd_dist.fault_points import fault_point
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Remembering, Replicas, Teacher
from gkd_dist.pipeline.judging import judge
from gkd_dist.pipeline.rejection import in_part
from gkd_dist.pipeline.ring import Ring
from gkd_dist.pipeline.routing import TeachersOf, ask
from gkd_dist.replay.groups import Group
from gkd_dist.supervision.together import gather_all
from gkd_dist.targets import CacheUse, TargetsHandle, TeacherTargets
from gkd_dist.types import ScoredTrajectory, TeacherScore, Trajectory


async def scored_groups(ring: Ring, trajectories: Sequence[Trajectory]) -> list[Group]:
    """Scored and judged trajectories, those of one row together; rows with one that no teacher can score left out."""
    if not trajectories:
        return []
    both: list[Any] = [_scored(ring, trajectories), _rewards(ring, trajectories)]
    scored, rewards = await gather_all(both)
    pairs = zip(trajectories, scored, rewards, strict=True)
    groups = [list(rows) for _, rows in groupby(pairs, key=lambda pair: pair[0].sample_id.prompt_index)]
    return [
        tuple(replace(item, reward=reward) for _, item, reward in rows)
        for rows in groups
        if all(item is not None for _, item, _ in rows)
    ]


async def _scored(ring: Ring, trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory | None]:
    with ring.accounts.timed("score"):
        scored = await in_part(trajectories, lambda part: _score(ring, part))
    ring.accounts.scored([item for item in scored if item is not None])
    return scored


async def _score(ring: Ring, trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory]:
    return await score(
        ring.fleet,
        trajectories,
        ring.plan.teachers_of,
        whole_steps=ring.plan.whole_steps,
        told=ring.accounts.remembered,
        asking=lambda teacher: ring.accounts.asked("score", teacher),
    )


async def _rewards(ring: Ring, trajectories: Sequence[Trajectory]) -> list[float | None]:
    """None for what the student did not write, and for all where the objective asks for no reward."""
    reinforcement, reward = ring.plan.reinforcement, ring.fleet.reward
    if reinforcement is None or reward is None:
        return [None] * len(trajectories)
    with ring.accounts.timed("judge"):
        return await judge(reward, trajectories, reinforcement.answer_of)


async def score(
    fleet: Fleet,
    trajectories: Sequence[Trajectory],
    teachers_of: TeachersOf | None = None,
    *,
    whole_steps: bool = True,
    told: Callable[[CacheUse], None] = lambda _: None,
    asking: Callable[[Teacher], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> list[ScoredTrajectory]:
    """Every trajectory with the scores of its teachers, both in their order; all teachers work at once.

    Args:
        teachers_of: names of the teachers of a sample; None: all of the fleet, which may be none.
        whole_steps: see `routing.ask`.
        told: what the teachers' caches did since they were last asked that.
        asking: entered while a teacher scores.

    Raises:
        EngineError: a sample has no teacher, or one that is not in the fleet.
        RejectedError: a teacher said what no model can say. Targets behind a handle were checked when they were
            encoded.
    """
    asked = [_names(fleet, trajectory, teachers_of) for trajectory in trajectories]
    columns = await gather_all(
        _column(
            name,
            replicas,
            [index for index, names in enumerate(asked) if name in names],
            trajectories,
            whole_steps,
            told,
            asking,
        )
        for name, replicas in fleet.teachers.items()
    )
    return [
        ScoredTrajectory(trajectory, tuple(column[index] for column in columns if index in column))
        for index, trajectory in enumerate(trajectories)
    ]


def _names(fleet: Fleet, trajectory: Trajectory, teachers_of: TeachersOf | None) -> Collection[str]:
    if teachers_of is None:
        return fleet.teachers.keys()
    names = teachers_of(trajectory.sample_id)
    unknown = [name for name in names if name not in fleet.teachers]
    if unknown or not names:
        wanted = ", ".join(unknown) or "nobody"
        raise EngineError(
            f"{trajectory.sample_id} is to be scored by {wanted}; the teachers are {', '.join(fleet.teachers)}"
        )
    return names


async def _column(
    name: str,
    replicas: Replicas[Teacher],
    indices: Sequence[int],
    trajectories: Sequence[Trajectory],
    whole_steps: bool,
    told: Callable[[CacheUse], None],
    asking: Callable[[Teacher], AbstractContextManager[None]],
) -> dict[int, TeacherScore]:
    """What one teacher says, by index of the trajectory."""

    async def targets_of(teacher: Teacher, part: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        fault_point("scoring.ask")
        with asking(teacher):
            targets = await teacher.score(part)
        if isinstance(teacher, Remembering):
            told(teacher.cache_use())
        for trajectory, each in zip(part, targets, strict=True):
            if each.num_tokens != trajectory.num_completion_tokens:
                raise RejectedError(
                    f"{name} scored {each.num_tokens} tokens of {trajectory.sample_id}, which has "
                    f"{trajectory.num_completion_tokens}"
                )
            if not isinstance(each, TargetsHandle) and each.fault:
                raise RejectedError(
                    f"the targets of {name} for {trajectory.sample_id} cannot be learned from: {each.fault}"
                )
        return targets

    if not indices:
        return {}
    share = [trajectories[index] for index in indices]
    targets = await ask(replicas, share, targets_of, whole_steps=whole_steps)
    return {index: TeacherScore(name, each) for index, each in zip(indices, targets, strict=True)}
