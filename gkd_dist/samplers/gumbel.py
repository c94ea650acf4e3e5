"""Exact sampling with a generator for each row: add Gumbel noise to the log-probs, take the argmax.

argmax(log p + Gumbel noise) is a draw from p (the Gumbel-max trick), so neither the global random state nor the
neighbours in the batch play a part.
"""

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gkd_dist.types import SamplingParams


class GumbelDraw:
    """Draws the next token of every row of a batch, from its first to its last.

    Args:
        params: temperature 0 means greedy, without noise.
        seeds: one per row.
        num_ids: ids from here on are padding of the vocabulary and are never drawn. None: all ids are real.
    """

    def __init__(self, params: SamplingParams, seeds: list[int], num_ids: int | None = None) -> None:
        self._greedy = params.temperature == 0
        self._num_ids = num_ids
        self._warpers = _warpers(params)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Of scores [B, V]: ids [B] int64, and their log-probs [B] float32 in what they were drawn from."""
        real = scores[:, : self._num_ids].float()
        log_probs = torch.log_softmax(self._warpers(None, real), dim=-1)
        ids = (log_probs if self._greedy else self._perturbed(log_probs)).argmax(dim=-1)
        return ids, log_probs.gather(1, ids[:, None]).squeeze(1)

    def keep(self, indices: Tensor) -> None:
        """Rows [B] that go on; their generators do, too."""
        self._generators = [self._generators[index] for index in indices.tolist()]

    def _perturbed(self, log_probs: Tensor) -> Tensor:
        """[B, V] with the order of log p - log(-log u), u uniform: that of p / -log(u), a logarithm cheaper.

        Float64: the uniforms of float32 lie 2**-24 apart, too coarse for the tail of a large vocabulary.
        """
        noise = torch.empty(log_probs.shape, dtype=torch.float64)
        for row, generator in zip(noise, self._generators, strict=True):
            torch.rand(row.shape, generator=generator, out=row)
        # In place: with a large vocabulary the noise costs as much as a small model's step. No uniform is 1, nor, once
        # it is clamped, 0: all of -log(u) is positive and finite.
        noise.clamp_(min=torch.finfo(torch.float64).tiny).log_().neg_()
        return log_probs.exp().double().div_(noise.to(log_probs.device))


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
