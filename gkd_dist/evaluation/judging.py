"""What the answers of predictions are worth, by a reward of the ring."""

from collections.abc import Sequence
from dataclasses import replace

from gkd_dist.closing import Closing
from gkd_dist.evaluation.predictions import Prediction
from gkd_dist.evaluation.writers import Progress
from gkd_dist.interfaces import Reward
from gkd_dist.types import Answer

AT_ONCE = 32
"""Answers that a reward gets in one call: few, because a call has a deadline and a function may be slow."""


async def judge(predictions: Sequence[Prediction], reward: Reward, progress: Progress) -> list[Prediction]:
    """The same predictions with a reward for each of their samples, which replace those that they have.

    An answer is judged with the prompt as the model saw it and the first reference, as in a run. The reward is closed.

    Raises:
        DeadlineError, EngineError: of the reward.
    """
    answers = [answer for each in predictions for answer in answers_of(each)]
    values: list[float] = []
    async with Closing(reward):
        for start in range(0, len(answers), AT_ONCE):
            batch = answers[start : start + AT_ONCE]
            values += await reward.judge(batch)
            progress(len(batch))
    remaining = iter(values)
    return [replace(each, rewards=tuple(next(remaining) for _ in each.samples)) for each in predictions]


def answers_of(prediction: Prediction) -> list[Answer]:
    reference = prediction.references[0] if prediction.references else None
    return [Answer(prediction.prompt, sample.text, reference) for sample in prediction.samples]
