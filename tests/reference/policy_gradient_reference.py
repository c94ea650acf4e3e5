"""The expected reward of a small policy, by enumeration, in float64 (arXiv 2306.13649, eq. 5, left part).

The policy: the logits after a prefix are head @ table[prefix]. A sequence ends with id 0 or after `max_tokens`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Sequence = tuple[int, ...]


def sequences(num_ids: int, max_tokens: int) -> list[Sequence]:
    """Every sequence that the policy can write."""
    written: list[Sequence] = []
    open_prefixes: list[Sequence] = [()]
    for length in range(1, max_tokens + 1):
        extended = [(*prefix, token) for prefix in open_prefixes for token in range(num_ids)]
        written += [item for item in extended if item[-1] == 0 or length == max_tokens]
        open_prefixes = [item for item in extended if item[-1] != 0]
    return written


def prefixes(num_ids: int, max_tokens: int) -> list[Sequence]:
    """Every prefix after which the policy writes a token; its index is its row of the table."""
    return sorted({item[:length] for item in sequences(num_ids, max_tokens) for length in range(len(item))})


def log_prob(table: Tensor, head: Tensor, rows: list[int], sequence: Sequence) -> Tensor:
    """log q(sequence), the sum over its tokens.

    Args:
        table: [num_prefixes, H] float64.
        head: [V, H] float64.
        rows: of the table, one per token.
    """
    log_q = torch.log_softmax(table[rows] @ head.T, dim=-1)
    return log_q[torch.arange(len(sequence)), list(sequence)].sum()


def expected_reward(
    table: Tensor, head: Tensor, rows_of: dict[Sequence, list[int]], reward: Callable[[Sequence], float]
) -> Tensor:
    """sum over y of q(y) r(y), differentiable: its gradient is the true one."""
    terms = [log_prob(table, head, rows, item).exp() * reward(item) for item, rows in rows_of.items()]
    return torch.stack(terms).sum()
