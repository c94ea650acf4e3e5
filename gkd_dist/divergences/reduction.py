"""Weights that turn per-token divergences into the loss (floor F0).

The denominators are arguments, global over ranks and accumulation steps: a batch that is split in any way into
micro-batches and ranks gives parts of one sum.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["sequence_mean", "token_mean"]


def token_weights(lengths: Sequence[int], reduction: Reduction, *, num_sequences: int, num_tokens: int) -> Tensor:
    """Weight of each completion token in the loss, for sequences packed one after the other.

    `sequence_mean`: 1 / (L_i * num_sequences), the mean over a sequence's tokens, then over sequences.
    `token_mean`: 1 / num_tokens.

    Args:
        lengths: completion tokens L_i >= 1 of the sequences at hand; N is their sum.
        num_sequences: sequences in the whole step, over all ranks and accumulation steps.
        num_tokens: completion tokens in the whole step, likewise.

    Returns:
        [N] float32; over a whole step they sum to 1.

    Raises:
        ValueError: a length below 1, a denominator smaller than what is at hand, or an unknown reduction.

    Source: arXiv 2306.13649, eq. 2.
    """
    if any(length < 1 for length in lengths):
        raise ValueError(f"every sequence needs at least one completion token, got lengths {list(lengths)}")
    if num_sequences < max(len(lengths), 1) or num_tokens < max(sum(lengths), 1):
        raise ValueError(
            f"global denominators num_sequences={num_sequences}, num_tokens={num_tokens} are less than "
            f"the {len(lengths)} sequences and {sum(lengths)} tokens here"
        )
    counts = torch.tensor(lengths, dtype=torch.int64)
    match reduction:
        case "sequence_mean":
            # float64 until the end: the product of two counts may exceed what float32 holds exactly.
            per_sequence = 1.0 / (counts.double() * num_sequences)
        case "token_mean":
            per_sequence = torch.full((len(lengths),), 1.0 / num_tokens, dtype=torch.float64)
        case _:
            raise ValueError(f"unknown reduction {reduction!r}; choose sequence_mean or token_mean")
    return per_sequence.repeat_interleave(counts).float()
