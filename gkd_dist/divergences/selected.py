"""Log-probs of chosen ids, without ever holding [N, V] (floor F0)."""

import torch
from torch import Tensor

from gkd_dist.divergences.dense import TeacherLogits


@torch.no_grad()
def selected_log_probs(
    logits: TeacherLogits, ids: Tensor, *, temperature: float = 1.0, chunk_tokens: int = 256
) -> Tensor:
    """log softmax(logits / temperature) at `ids`, chunk by chunk, without gradient.

    Args:
        logits: [n, V] of a slice of the N tokens, of a teacher or (`hidden_teacher` of its hidden states and readout)
            of the student.
        ids: [N] or [N, K] int64.
        temperature: of the softmax.
        chunk_tokens: tokens per chunk; it does not change the result.

    Returns:
        The shape of `ids`, float32 (float64 where the logits are).
    """
    parts = []
    for start in range(0, ids.shape[0], chunk_tokens):
        span = slice(start, start + chunk_tokens)
        rows = logits(span) / temperature
        wanted = ids[span].reshape(rows.shape[0], -1)
        parts.append(rows.gather(1, wanted) - torch.logsumexp(rows, dim=1, keepdim=True))
    return torch.cat(parts).reshape(ids.shape)
