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

    Args:
        scorer: answers with `FullTargets` or `SampledTargets`. A prompt whose options are single tokens is read once
            where the first of its answers is a full distribution.
        options: [n] int32 ids of each option, n >= 1.
        batch_size: prompts in one request.
    """
    found: list[tuple[float, ...]] = []
    for start in range(0, len(prompts), batch_size):
        batch = list(zip(prompts[start : start + batch_size], options[start : start + batch_size], strict=True))
        first = await scorer.score([_trajectory(prompt, own[0]) for prompt, own in batch])
        known = [
            len(own) if isinstance(targets, FullTargets) and all(ids.size == 1 for ids in own) else 1
            for targets, (_, own) in zip(first, batch, strict=True)
        ]
        others = [(row, ids) for row, (_, own) in enumerate(batch) for ids in own[known[row] :]]
        rest = await scorer.score([_trajectory(batch[row][0], ids) for row, ids in others]) if others else []
        rows = [
            [_log_prob(targets, ids) for ids in own[:number]]
            for targets, (_, own), number in zip(first, batch, known, strict=True)
        ]
        for (row, ids), targets in zip(others, rest, strict=True):
            rows[row].append(_log_prob(targets, ids))
        found += map(tuple, rows)
        progress(len(batch))
    return found


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
