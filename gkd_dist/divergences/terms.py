"""The summands of a loss over student logits, chunk by chunk (floor F0).

A term sees the student's logits of a few tokens at a time and answers with its value and its derivative there. The
loop that makes the logits (`chunked.chunked_loss`) knows nothing of teachers; a term knows nothing of hidden states.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gkd_dist.divergences.importance import importance_weights

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class TermChunk:
    """What a term says about n tokens."""

    nats: Tensor
    """[n] unweighted values."""
    slope: Tensor | None
    """[n, V] derivative of sum(weight * nats) with respect to the student's logits; None where none was wanted."""


def log_normalisers(logits: Tensor) -> Tensor:
    """[n, 1] log-sum-exp of the rows of [n, V]; on a CPU a few rows at a time, since it holds a copy of its input."""
    if logits.is_cuda:
        return torch.logsumexp(logits, dim=1, keepdim=True)
    height = max(1, _BLOCK_BYTES // (logits.shape[1] * logits.element_size()))
    return torch.cat([torch.logsumexp(rows, dim=1, keepdim=True) for rows in torch.split(logits, height)])


class Term(Protocol):
    """loss = sum over n of weights[n] * nats[n]; nats need not be what is differentiated (an estimator's are not)."""

    @property
    def weights(self) -> Tensor:
        """[N] float32, or float64; N is the number of tokens."""
        ...

    @property
    def num_tiles(self) -> int:
        """Tiles of the logits' size that `chunk` holds at most, beside the logits and the slope."""
        ...

    def chunk(self, logits: Tensor, span: slice, *, wants_slope: bool, owns_logits: bool) -> TermChunk:
        """Value and derivative at the tokens of `span`.

        Args:
            logits: [n, V] of the student, float32 or float64, finite, without gradient.
            wants_slope: whether the derivative is needed.
            owns_logits: the caller is done with `logits`: they may be overwritten, or come back as the slope.

        Raises:
            ValueError: the term covers another number of ids than `logits`.
        """
        ...


@runtime_checkable
class Measuring(Protocol):
    """A term that knows more about its tokens than their nats."""

    @property
    def measured(self) -> Mapping[str, Tensor]:
        """[N] each, by name; their means over the tokens of a step are reported."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LikelihoodTerm:
    """- sum of weights[n] * log q(ids[n]): maximum likelihood; with advantages as weights, the policy gradient.

    Where another policy drew the ids, each token's gradient is weighed by min(q / behaviour, max_importance), taken as
    a constant: the policy gradient per token, capped. The value stays - log q.

    Raises:
        ValueError: tensors of different lengths.
    """

    ids: Tensor
    """[N] int64, the tokens that were written."""
    weights: Tensor
    """[N] float32; receives no gradient."""
    behaviour_log_probs: Tensor | None = None
    """[N] under the policy that drew the ids; None: the student itself, or fixed data."""
    max_importance: float = 2.0
    """See `importance_weights`."""

    def __post_init__(self) -> None:
        if self.ids.shape != self.weights.shape or self.ids.ndim != 1:
            raise ValueError(f"ids {list(self.ids.shape)} and weights {list(self.weights.shape)} must both be [N]")
        if self.behaviour_log_probs is not None and self.behaviour_log_probs.shape != self.ids.shape:
            raise ValueError(f"behaviour_log_probs {list(self.behaviour_log_probs.shape)} must be [N] as ids are")

    @property
    def num_tiles(self) -> int:
        return 0

    def chunk(self, logits: Tensor, span: slice, *, wants_slope: bool, owns_logits: bool) -> TermChunk:
        ids = self.ids[span].unsqueeze(1)
        chosen = logits.gather(1, ids)
        log_z = log_normalisers(logits)
        nats = (log_z - chosen).squeeze(1)
        if not wants_slope:
            return TermChunk(nats, None)
        weights = self.weights[span].unsqueeze(1).to(logits)
        if self.behaviour_log_probs is not None:
            capped = importance_weights(-nats, self.behaviour_log_probs[span], self.max_importance)
            weights = weights * capped.unsqueeze(1)
        slope = torch.sub(logits, log_z, out=logits if owns_logits else None).exp_().mul_(weights)
        return TermChunk(nats, slope.scatter_add_(1, ids, -weights))
