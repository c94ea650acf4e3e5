"""Matrix products with a chosen input precision and a float32 result (floor F0).

`compute_dtype` bfloat16 rounds the inputs of a product to bfloat16 (24 -> 8 bits of mantissa) but accumulates and
returns float32, which is what the matrix units of CPUs and GPUs do best:

* CPU: operands stay float32 and oneDNN rounds them, under a switch that is set around each product and then put
  back. Without bfloat16 hardware oneDNN ignores the switch and the product is a plain float32 one.
* CUDA: operands are bfloat16 and the product asks for a float32 result.

float64 operands stay float64 under either choice.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def check_compute_dtype(compute_dtype: torch.dtype) -> None:
    """Raises ValueError unless it is float32 or bfloat16."""
    if compute_dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"compute_dtype must be torch.float32 or torch.bfloat16, got {compute_dtype}")


def operand(tensor: Tensor, compute_dtype: torch.dtype) -> Tensor:
    """`tensor` in the dtype in which it enters products; itself when it is already in it."""
    if tensor.dtype == torch.float64:
        return tensor
    return tensor.to(compute_dtype if tensor.is_cuda else torch.float32)


def multiply(left: Tensor, right: Tensor, compute_dtype: torch.dtype) -> Tensor:
    """left [n, k] @ right [k, m] of two operands, as [n, m] float32 (float64 for float64)."""
    if left.dtype == torch.bfloat16:
        return torch.mm(left, right, out_dtype=torch.float32)
    with _cpu_precision(compute_dtype):
        return torch.mm(left, right)


def accumulate_(total: Tensor, left: Tensor, right: Tensor, compute_dtype: torch.dtype) -> None:
    """total [n, m] += left [n, k] @ right [k, m] of two operands, in place and without a second [n, m]."""
    if left.dtype == torch.bfloat16:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
        return
    with _cpu_precision(compute_dtype):
        torch.addmm(total, left, right, out=total)


@contextmanager
def _cpu_precision(compute_dtype: torch.dtype) -> Iterator[None]:
    """float32 products of oneDNN round their inputs to `compute_dtype` inside, and do as before outside.

    The switch belongs to the process: products of other threads see it for as long as this one lasts.
    """
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = switch.fp32_precision
    switch.fp32_precision = "bf16" if compute_dtype == torch.bfloat16 else "ieee"
    try:
        yield
    finally:
        switch.fp32_precision = before
