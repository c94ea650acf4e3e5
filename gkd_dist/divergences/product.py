"""Matrix products with a chosen input precision and a float32 result (floor F0).

`compute_dtype` bfloat16 rounds the inputs of a product to bfloat16 (24 -> 8 bits of mantissa) but accumulates and
returns float32, which is what the matrix units of CPUs and GPUs do best:

* CPU: operands stay float32 and oneDNN rounds them, under a switch that is set around each product and then put
  back. The switch is the process's: one product at a time holds it. Without bfloat16 hardware oneDNN ignores it and
  the product is a plain float32 one.
* CUDA: operands are bfloat16 and the product asks for a float32 result.

float64 operands stay float64 under either choice.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_SWITCH = threading.Lock()
"""Held from setting oneDNN's switch to putting it back; without it two threads take each other's choice for the
process's own, and leave it behind."""


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
    with _cpu_precision(left, compute_dtype):
        return torch.mm(left, right)


def accumulate_(total: Tensor, left: Tensor, right: Tensor, compute_dtype: torch.dtype) -> None:
    """total [n, m] += left [n, k] @ right [k, m] of two operands, in place and without a second [n, m]."""
    if left.dtype == torch.bfloat16:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
        return
    with _cpu_precision(left, compute_dtype):
        torch.addmm(total, left, right, out=total)


@contextmanager
def _cpu_precision(factor: Tensor, compute_dtype: torch.dtype) -> Iterator[None]:
    """float32 products of oneDNN round their inputs to `compute_dtype` inside, and do as before outside.

    Products from here wait for one another. Those of other code in other threads see the switch while this one lasts.

    Args:
        factor: of the product; where it is neither float32 nor on a CPU, nothing is switched.
    """
    if factor.is_cuda or factor.dtype != torch.float32:
        yield
        return
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _SWITCH:
        before = switch.fp32_precision
        switch.fp32_precision = "bf16" if compute_dtype == torch.bfloat16 else "ieee"
        try:
            yield
        finally:
            switch.fp32_precision = before
