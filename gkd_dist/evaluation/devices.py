"""What this machine has to compute on."""

import torch


def has_gpu(*, is_forked: bool) -> bool:
    """Whether there is a GPU that torch can use.

    Args:
        is_forked: the process of an engine may be forked from this one, which must leave CUDA alone then as far as it
            can: GPUs are counted, not tried.
    """
    return torch.cuda.device_count() > 0 if is_forked else torch.cuda.is_available()
