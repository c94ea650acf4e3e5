"""Log-probs of chosen ids, without ever holding [N, V] (floor F0)."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gkd_dist.divergences import budget
from gkd_dist.divergences.dense import TeacherLogits

_NUM_TILES = 3
"""Alive at a time: logits, a copy without the ids of a set, and what a log-sum-exp makes."""


@torch.no_grad()
def selected_log_probs(
    logits: TeacherLogits, ids: Tensor, *, temperature: float = 1.0, memory_bytes: int | None = None
) -> Tensor:
    """log softmax(logits / temperature) at `ids`, chunk by chunk, without gradient.

    Args:
        logits: [n, V] of a slice of the N tokens, of a teacher or (`hidden_teacher` of its hidden states and readout)
            of the student.
        ids: [N] or [N, K] int64.
        temperature: of the softmax.
        memory_bytes: for the tiles of one chunk, see `budget.chunk_tokens`; it does not change the result.

    Returns:
        The shape of `ids`, float32 (float64 where the logits are).
    """
    parts = []
    for span, rows in _chunks(logits, ids.shape[0], memory_bytes):
        tempered = rows / temperature if temperature != 1.0 else rows
        wanted = ids[span].reshape(rows.shape[0], -1)
        parts.append(tempered.gather(1, wanted) - torch.logsumexp(tempered, dim=1, keepdim=True))
    return torch.cat(parts).reshape(ids.shape)


@torch.no_grad()
def partition_log_probs(
    logits: TeacherLogits, ids: Tensor, set_ids: Tensor, real: Tensor, *, memory_bytes: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of chosen ids, of the ids of a set, and of all outside it together: the last as their log-sum-exp,
    where 1 - sum would round to 0.

    Args:
        logits: as in `selected_log_probs`.
        ids: [N] int64.
        set_ids: [N, K] int64, no real id twice in a row.
        real: [N, K] bool; the others are no members.

    Returns:
        [N], [N, K] (-inf where not `real`) and [N].
    """
    chosen, inside, outside = [], [], []
    for span, rows in _chunks(logits, set_ids.shape[0], memory_bytes):
        log_z = torch.logsumexp(rows, dim=1, keepdim=True)
        chosen.append((rows.gather(1, ids[span].unsqueeze(1)) - log_z).squeeze(1))
        inside.append((rows.gather(1, set_ids[span]) - log_z).masked_fill(~real[span], -math.inf))
        # A slot that is no member takes nothing out: the minimum with +inf.
        taken = torch.where(real[span], -math.inf, math.inf).to(rows)
        rest = rows.scatter_reduce(1, set_ids[span], taken, "amin")
        outside.append((torch.logsumexp(rest, dim=1, keepdim=True) - log_z).squeeze(1))
    return torch.cat(chosen), torch.cat(inside), torch.cat(outside)


def _chunks(logits: TeacherLogits, num_tokens: int, memory_bytes: int | None) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the tokens with their logits [n, V]; the first is a short one, which tells V."""
    start, size = 0, budget.MIN_TOKENS
    while start < num_tokens:
        span = slice(start, min(start + size, num_tokens))
        rows = logits(span)
        yield span, rows
        start = span.stop
        kind = rows.device.type
        size = budget.chunk_tokens(rows.shape[1], rows.dtype, kind, num_tiles=_NUM_TILES, memory_bytes=memory_bytes)
