"""Which positions predict the completion (floor F0).

In a sequence of P prompt tokens and L completion tokens, position i predicts token i + 1: completion token t, which
stands at P + t, is predicted at P + t - 1. Prompt tokens, padding and whatever follows the completion carry no loss
because nobody looks them up; masks by token id play no part.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def predicting_positions(prompt_lengths: Sequence[int], completion_lengths: Sequence[int], width: int) -> Tensor:
    """Flat index of the position that predicts each completion token, sequence after sequence.

    Args:
        prompt_lengths: P_b >= 1 for each of the B rows.
        completion_lengths: L_b >= 0; N is their sum.
        width: T, the row length of a right-padded [B, T] layout.

    Returns:
        [N] int64: b * width + P_b - 1 + t for t = 0 .. L_b - 1. Rows of a flattened [B * T, H] are picked with it.

    Raises:
        ValueError: counts that differ, a length out of range, or a sequence longer than width.
    """
    if len(prompt_lengths) != len(completion_lengths):
        raise ValueError(f"{len(prompt_lengths)} prompt lengths but {len(completion_lengths)} completion lengths")
    spans = [torch.empty(0, dtype=torch.int64)]
    for row, (prompt, completion) in enumerate(zip(prompt_lengths, completion_lengths, strict=True)):
        if prompt < 1:
            raise ValueError(f"row {row} needs at least one prompt token to predict the first, got {prompt}")
        if completion < 0:
            raise ValueError(f"row {row} has a negative completion length, {completion}")
        if prompt + completion > width:
            raise ValueError(f"row {row} has {prompt} + {completion} tokens, more than the width {width}")
        first = row * width + prompt - 1
        spans.append(torch.arange(first, first + completion, dtype=torch.int64))
    return torch.cat(spans)
