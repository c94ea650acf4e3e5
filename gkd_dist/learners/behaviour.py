"""Whether the sampler writes with the weights that the learner holds: log-probs of sampled tokens from both sides.

At staleness 0 they differ by rounding alone (the sampler's dtype, kernels and batches). A sampler whose weights are
old, damaged or of another model shows here first.
"""

from collections.abc import Sequence

import torch

from gkd_dist.divergences import Readout
from gkd_dist.types import ScoredTrajectory

NUM_TOKENS = 64
"""Looked at in one train step: a small share of one more projection."""


@torch.no_grad()
def behaviour_gaps(
    scored: Sequence[ScoredTrajectory],
    hidden: torch.Tensor,
    readout: Readout,
    *,
    version: int,
    temperature: float,
    tokens_each: int,
) -> list[float]:
    """Absolute differences, nats, at the first `tokens_each` tokens of what version `version` alone has written.

    Args:
        hidden: [N, H] of the student at the completion tokens of `scored`, trajectory after trajectory.
        readout: the student's.
        temperature: under which behaviour log-probs were taken, over the whole vocabulary.
    """
    rows: list[int] = []
    ids: list[int] = []
    behaviour: list[float] = []
    start = 0
    for item in scored:
        trajectory = item.trajectory
        versions, log_probs = trajectory.versions, trajectory.behaviour_log_probs
        if versions is not None and log_probs is not None and versions.oldest == versions.newest == version:
            taken = min(trajectory.num_completion_tokens, tokens_each)
            rows.extend(range(start, start + taken))
            ids.extend(trajectory.completion_ids[:taken].tolist())
            behaviour.extend(log_probs[:taken].tolist())
        start += trajectory.num_completion_tokens
    if not rows:
        return []
    logits = readout.logits(hidden[rows].to(readout.weight.dtype)).float() / temperature
    chosen = logits.gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0]
    gaps: list[float] = ((chosen - torch.logsumexp(logits, dim=1)).cpu() - torch.tensor(behaviour)).abs().tolist()
    return gaps
