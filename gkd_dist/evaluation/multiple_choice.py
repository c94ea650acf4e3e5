"""Options compared by their log-likelihood behind the question."""

from collections.abc import Sequence

import numpy as np

from gkd_dist.evaluation.writers import Progress
from gkd_dist.interfaces import Scorer
from gkd_dist.targets import FullTargets, SampledTargets
from gkd_dist.types import FinishReason, IntArray, Prompt, Source, Trajectory


async def option_log_probs(
    scorer: Scorer,
    prompts: Sequence[Prompt],
    options: Sequence[Sequence[IntArray]],
    *,
    batch_size: int,
    progress: Progress,
) -> list[tuple[float, ...]]:
    """Per prompt the log-prob of each of its options, nats, summed over the option's tokens.

    A scorer that answers with full distributions reads a prompt once where all its options are single tokens.

    Args:
        scorer: answers with `FullTargets` or `SampledTargets`.
        options: [n] int32 ids of each option, n >= 1.
        batch_size: prompts in one request.
    """
    found: list[tuple[float, ...]] = []
    reads_once = False
    for start in range(0, len(prompts), batch_size):
        batch = range(start, min(start + batch_size, len(prompts)))
        asked = [
            (index, number)
            for index in batch
            for number in range(1 if reads_once and _are_single(options[index]) else len(options[index]))
        ]
        trajectories = [_trajectory(prompts[index], options[index][number]) for index, number in asked]
        answers = dict(zip(asked, await scorer.score(trajectories), strict=True))
        for index in batch:
            rows = [
                _log_prob(answers.get((index, number), answers[index, 0]), ids)
                for number, ids in enumerate(options[index])
            ]
            found.append(tuple(rows))
        reads_once = all(isinstance(answer, FullTargets) for answer in answers.values())
        progress(len(batch))
    return found


def _are_single(options: Sequence[IntArray]) -> bool:
    return all(ids.size == 1 for ids in options)


def _trajectory(prompt: Prompt, option: IntArray) -> Trajectory:
    return Trajectory(
        sample_id=prompt.sample_id,
        prompt_ids=prompt.token_ids,
        completion_ids=option,
        source=Source.GROUND_TRUTH,
        finish_reason=FinishReason.LENGTH,
    )


def _log_prob(targets: object, ids: IntArray) -> float:
    if isinstance(targets, FullTargets):
        return float(targets.log_probs[np.arange(ids.size), ids].sum(dtype=np.float64))
    if isinstance(targets, SampledTargets):
        return float(targets.log_probs.sum(dtype=np.float64))
    raise TypeError(f"options need full or sampled log-probs, not {type(targets).__name__}")
