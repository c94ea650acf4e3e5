"""Teachers of whom the log-prob of the written token alone is known (floor F0).

With y drawn from Q, k1 = log q(y) - log p(y) is an unbiased estimate of KL(Q || P), and k1 * grad log q(y), k1 held
constant, of its gradient: that is the gradient of k2 = k1 ** 2 / 2. The gradient of k1 itself is 0 in expectation
and never sees the teacher; that of k3 = exp(-k1) - 1 + k1 is the forward KL's. Neither is offered.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gkd_dist.divergences.importance import importance_weights
from gkd_dist.divergences.terms import TermChunk, log_normalisers


@dataclass(frozen=True, slots=True, eq=False)
class SampledTerm:
    """Reverse KL by policy gradient, from the log-probs of one token per position, which the student wrote.

    The value is k1; single values may be negative, their mean tends to KL(Q || P). The derivative is
    weights * k1 * d log q(ids).

    Raises:
        ValueError: lengths that differ, or a cap that is not positive.
    """

    ids: Tensor
    """[N] int64, the tokens that were written."""
    teacher_log_probs: Tensor
    """[N] float."""
    weights: Tensor
    """[N] float32, from `reduction.token_weights`; receives no gradient."""
    behaviour_log_probs: Tensor | None = None
    """[N] under the policy that wrote the tokens; None: the student itself, no importance weights."""
    max_importance: float = 2.0
    """See `importance_weights`."""

    def __post_init__(self) -> None:
        parts = [self.ids, self.teacher_log_probs, self.weights]
        parts += [] if self.behaviour_log_probs is None else [self.behaviour_log_probs]
        if self.ids.ndim != 1 or any(part.shape != self.ids.shape for part in parts):
            shapes = ", ".join(str(list(part.shape)) for part in parts)
            raise ValueError(f"ids, teacher_log_probs, weights and behaviour_log_probs must all be [N], got {shapes}")
        if not 0 < self.max_importance < math.inf:
            raise ValueError(f"max_importance must be positive and finite, got {self.max_importance}")

    @property
    def num_tiles(self) -> int:
        """See `terms.Term.num_tiles`."""
        return 0

    def chunk(self, logits: Tensor, span: slice, *, wants_slope: bool, owns_logits: bool) -> TermChunk:
        """See `terms.Term.chunk`."""
        ids = self.ids[span].unsqueeze(1)
        log_z = log_normalisers(logits)
        log_q = (logits.gather(1, ids) - log_z).squeeze(1)
        nats = log_q - self.teacher_log_probs[span].to(log_q)
        if self.behaviour_log_probs is not None:
            nats = nats * importance_weights(log_q, self.behaviour_log_probs[span], self.max_importance)
        if not wants_slope:
            return TermChunk(nats, None)
        advantage = (nats * self.weights[span].to(nats)).unsqueeze(1)
        slope = torch.sub(logits, log_z, out=logits if owns_logits else None).exp_().mul_(-advantage)
        return TermChunk(nats, slope.scatter_add_(1, ids, advantage))
