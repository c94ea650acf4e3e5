"""Exact sampling inside transformers' greedy loop: add Gumbel noise from our own generators, take the argmax.

argmax(log p + Gumbel noise) is a draw from p (the Gumbel-max trick), so every row may have a generator of its own
and neither the global random state nor the neighbours in the batch play a part.
"""

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gkd_dist.types import SamplingParams


class GumbelProcessor(LogitsProcessor):
    """Turns scores [B, V] into perturbed log-probs, and remembers the log-probs of what was chosen.

    Args:
        params: temperature 0 means greedy, without noise.
        seeds: one per row.
        num_ids: ids from here on are padding of the vocabulary and get no probability. None: all ids are real.
    """

    def __init__(self, params: SamplingParams, seeds: list[int], num_ids: int | None = None) -> None:
        self._greedy = params.temperature == 0
        self._num_ids = num_ids
        self._warpers = _warpers(params)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._pending: torch.Tensor | None = None
        self._chosen: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._settle(input_ids)
        real = self._without_padding(scores.float())
        log_probs = torch.log_softmax(self._warpers(input_ids, real), dim=-1)
        self._pending = log_probs
        if self._greedy:
            return log_probs
        return log_probs + self._noise(log_probs)

    def chosen_log_probs(self, sequences: torch.Tensor) -> torch.Tensor:
        """[B, L] float32 log-probs of the L generated tokens; call once, with the finished sequences [B, T]."""
        self._settle(sequences)
        return torch.stack(self._chosen, dim=1)

    def _settle(self, input_ids: torch.Tensor) -> None:
        if self._pending is not None:
            self._chosen.append(self._pending.gather(1, input_ids[:, -1:]).squeeze(1))
            self._pending = None

    def _without_padding(self, scores: torch.Tensor) -> torch.Tensor:
        if self._num_ids is None or self._num_ids >= scores.shape[1]:
            return scores
        scores = scores.clone()
        scores[:, self._num_ids :] = float("-inf")
        return scores

    def _noise(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Float64: the uniforms of float32 lie 2**-24 apart, too coarse for the tail of a large vocabulary."""
        noise = torch.empty(log_probs.shape, dtype=torch.float64)
        for row, generator in zip(noise, self._generators, strict=True):
            torch.rand(row.shape, generator=generator, out=row)
        # In place: with a large vocabulary the noise costs as much as a small model's step.
        noise.clamp_(min=torch.finfo(torch.float64).tiny).log_().neg_().log_().neg_()
        return noise.to(log_probs.device)


def _warpers(params: SamplingParams) -> LogitsProcessorList:
    warpers = LogitsProcessorList()
    if params.temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k > 0:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p > 0:
        warpers.append(MinPLogitsWarper(params.min_p))
    return warpers
