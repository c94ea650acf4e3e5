"""Rewards of trajectories: what the student wrote becomes text, and a reward says what it is worth."""

from collections.abc import Callable, Sequence
from operator import methodcaller

from gkd_dist.errors import EngineError
from gkd_dist.interfaces import Replicas, Reward
from gkd_dist.types import Answer, Source, Trajectory

AnswerOf = Callable[[Trajectory], Answer]
"""Decodes a student trajectory and finds the text of its row."""


async def judge(
    rewards: Replicas[Reward], trajectories: Sequence[Trajectory], answer_of: AnswerOf
) -> list[float | None]:
    """The reward of each trajectory that the student wrote, None for the others.

    Raises:
        RoleLostError: none is left.
        EngineError: what the reward raised at last, or another number of rewards than answers.
    """
    student = [item for item in trajectories if item.source is Source.STUDENT]
    if not student:
        return [None] * len(trajectories)
    answers = [answer_of(item) for item in student]
    numbers = await rewards.call(methodcaller("judge", answers), "judge")
    if len(numbers) != len(answers):
        raise EngineError(f"the reward gave {len(numbers)} numbers for {len(answers)} answers")
    remaining = iter(numbers)
    return [next(remaining) if item.source is Source.STUDENT else None for item in trajectories]
