"""How many tokens of the loss are computed at a time (floor F0)."""

import torch

DEFAULT_BYTES = {"cpu": 512 << 20, "cuda": 6 << 30}
"""For the tiles of one chunk: 416 tokens of 151,936 ids on a CPU, 3,520 on a GPU."""

MAX_TOKENS = {"cpu": 1024, "cuda": 4096}
"""From here on the products run no faster; GPUs need long chunks, because each chunk reads and writes the head's
gradient once."""

MIN_TOKENS = 32
"""Fewer starve the products, whatever the budget says."""

GRANULE = 32
"""Products like multiples of it."""


def chunk_tokens(
    num_ids: int, dtype: torch.dtype, device_type: str, *, num_tiles: int, memory_bytes: int | None = None
) -> int:
    """Tokens per chunk so that `num_tiles` tiles [tokens, num_ids] of `dtype` fit into `memory_bytes`.

    Args:
        dtype: of the logits, float32 or float64.
        num_tiles: how many such tiles are alive at the same time: the student's logits, which become the slope, and
            the teacher's; one more where the logits must outlive a term. Temporaries are smaller than a tile on a CPU
            and count as one on a GPU.
        memory_bytes: None means `DEFAULT_BYTES` of the device. The gradients themselves are not part of it.

    Returns:
        A multiple of `GRANULE` from `MIN_TOKENS`, even beyond the budget, to `MAX_TOKENS`.

    Raises:
        ValueError: a budget that is not positive.
    """
    if memory_bytes is not None and memory_bytes < 1:
        raise ValueError(f"memory_bytes must be positive, got {memory_bytes}")
    kind = "cpu" if device_type == "cpu" else "cuda"
    budget = DEFAULT_BYTES[kind] if memory_bytes is None else memory_bytes
    row_bytes = (num_tiles + (kind == "cuda")) * num_ids * dtype.itemsize
    tokens = budget // row_bytes // GRANULE * GRANULE
    return max(MIN_TOKENS, min(MAX_TOKENS[kind], tokens))
