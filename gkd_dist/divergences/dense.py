"""Teachers whose distribution is known over the whole vocabulary (floor F0)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gkd_dist.divergences.fused import Comparison, compare
from gkd_dist.divergences.kinds import Divergence
from gkd_dist.divergences.product import check_compute_dtype
from gkd_dist.divergences.readout import Readout
from gkd_dist.divergences.terms import TermChunk

TeacherLogits = Callable[[slice], Tensor]
"""Teacher logits [n, V] float32 of a slice of the N tokens. Log-probs serve as well: their log-softmax is the same."""


def hidden_teacher(hidden: Tensor, readout: Readout, *, compute_dtype: torch.dtype = torch.float32) -> TeacherLogits:
    """Teacher logits from its hidden states, projected chunk by chunk.

    Args:
        hidden: [N, H] any floating dtype, after the final norm.
        readout: the teacher's; it receives no gradient.
        compute_dtype: input precision of the product, as in `chunked_divergence`.

    Raises:
        ValueError: `hidden` is not [N, H] for the readout's H, or another compute_dtype.
    """
    if hidden.ndim != 2:
        raise ValueError(f"teacher hidden must be [N, H], got shape {list(hidden.shape)}")
    readout.check(hidden, "teacher hidden")
    check_compute_dtype(compute_dtype)
    rows, frozen = hidden.detach(), readout.frozen(compute_dtype)
    return lambda span: frozen.logits(rows[span], compute_dtype=compute_dtype)


def full_teacher(log_probs: Tensor) -> TeacherLogits:
    """Teacher logits from log-probs [N, V] (or logits) that are already there.

    Raises:
        ValueError: `log_probs` has not two axes.
    """
    if log_probs.ndim != 2:
        raise ValueError(f"log_probs must be [N, V], got shape {list(log_probs.shape)}")
    rows = log_probs.detach()
    return lambda span: rows[span]


@dataclass(frozen=True, slots=True, eq=False)
class DenseTerm:
    """Divergence from a teacher over all V ids.

    Raises:
        ValueError: a temperature out of range.
    """

    teacher_logits: TeacherLogits
    """Called once per chunk, without gradient."""
    divergence: Divergence
    weights: Tensor
    """[N] float32, from `reduction.token_weights`; receives no gradient."""
    teacher_temperature: float = 1.0
    """The teacher's log-probs are log_softmax(logits / teacher_temperature)."""

    def __post_init__(self) -> None:
        if not 0 < self.teacher_temperature < float("inf"):
            raise ValueError(f"teacher_temperature must be positive and finite, got {self.teacher_temperature}")

    def chunk(self, logits: Tensor, span: slice, *, wants_slope: bool, owns_logits: bool) -> TermChunk:
        """See `terms.Term.chunk`."""
        teacher_logits = self.teacher_logits(span).to(logits)
        if teacher_logits.shape != logits.shape:
            raise ValueError(
                f"teacher logits {list(teacher_logits.shape)} and student logits {list(logits.shape)} "
                "of a chunk differ; set num_ids of both readouts to the number of shared real ids"
            )
        comparison = Comparison(self.divergence, self.teacher_temperature, wants_slope)
        tile = logits if owns_logits or not wants_slope else logits.clone()
        nats = compare(comparison, teacher_logits, tile, self.weights[span].to(logits))
        return TermChunk(nats, tile if wants_slope else None)
