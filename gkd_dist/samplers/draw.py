"""Exact sampling with a generator for each row: one uniform a token, and the inverse of the distribution function.

Neither the global random state nor the neighbours in the batch play a part.
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

from gkd_dist.errors import EngineError
from gkd_dist.types import SamplingParams

BELOW_ONE = 1 - 2.0**-50
"""Rounded, the largest uniform times the sum of a distribution may be that sum, which no id reaches from above."""


class Draw:
    """Draws the next token of every row of a batch, from its first to its last.

    Args:
        params: temperature 0 means greedy.
        seeds: one per row.
        num_ids: ids from here on are padding of the vocabulary and are never drawn. None: all ids are real.
    """

    def __init__(self, params: SamplingParams, seeds: list[int], num_ids: int | None = None) -> None:
        self._greedy = params.temperature == 0
        self._num_ids = num_ids
        self._warpers = _warpers(params)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Of scores [B, V]: ids [B] int64, and their log-probs [B] float32 in what they were drawn from.

        Raises:
            EngineError: a row has a score that is NaN or infinity, or none above minus infinity.
        """
        real = scores[:, : self._num_ids].float()
        log_probs = torch.log_softmax(self._warpers(None, real), dim=-1)
        ids = log_probs.argmax(dim=-1) if self._greedy else self._drawn(log_probs)
        chosen = log_probs.gather(1, ids[:, None]).squeeze(1)
        if not chosen.isfinite().all():
            raise EngineError("the model's scores of the next token are not finite")
        return ids, chosen

    def keep(self, indices: Tensor) -> None:
        """Rows [B] that go on; their generators do, too."""
        self._generators = [self._generators[index] for index in indices.tolist()]

    def _drawn(self, log_probs: Tensor) -> Tensor:
        """[B] the first id whose share of the distribution, with all before it, is above a uniform.

        An id without probability adds nothing and is never the first. Float64: sums of float32 would lose the tail of
        a large vocabulary.
        """
        shares = log_probs.exp().double().cumsum(dim=-1)
        uniforms = torch.stack([torch.rand(1, dtype=torch.float64, generator=each) for each in self._generators])
        reached = uniforms.to(shares.device) * BELOW_ONE * shares[:, -1:]
        ids = torch.searchsorted(shares, reached, right=True).squeeze(1)
        return ids.clamp(max=shares.shape[1] - 1)  # scores that are not finite lead past the end


def _warpers(params: SamplingParams) -> LogitsProcessorList:
    """In the order of vLLM, which also leaves greedy scores as they are: one recipe is one policy on both engines."""
    warpers = LogitsProcessorList()
    if params.temperature == 0:
        return warpers
    if params.temperature != 1:
        warpers.append(TemperatureLogitsWarper(params.temperature))
    if params.min_p > 0:
        warpers.append(MinPLogitsWarper(params.min_p))
    if params.top_k > 0:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    return warpers
