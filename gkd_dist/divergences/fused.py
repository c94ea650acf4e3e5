"""From two tiles of logits to a divergence and its derivative, in few passes and in place (floor F0).

Three backends compute the same `Comparison`:

* eager torch: the definition. float64 and problems below `MIN_FUSED_ENTRIES` always use it.
* `torch.compile`: CPU (needs a C++ compiler) and GPU.
* `gkd_dist.divergences.triton_rows`: NVIDIA GPUs.

The last two are used after they have agreed with the first on a small random problem in this very process; where
none does, or none can be built, eager torch does the work and one warning says so.

On a CPU the tile is taken a few rows at a time, so that every pass but the first reads from the cache and temporary
tensors have the size of those rows, not of the tile.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from gkd_dist.divergences.kinds import Divergence

logger = logging.getLogger(__name__)

MIN_FUSED_ENTRIES = 1 << 22
"""n * V from which the seconds that a compiler takes are well spent: 28 tokens of 151,936 ids, 128 of 32,768."""

BLOCK_BYTES = 1 << 19
"""Of one float32 tile, per thread: what stays in a core's second-level cache beside the other tile and temporaries."""

RELATIVE_TOLERANCE = 1e-4
"""Largest difference between a backend and eager torch, relative to the largest entry: float32 sums over V terms in
another order, and other approximations of exp and log."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is computed of two tiles of logits; equal when its numbers are, which are constants of the compiled code."""

    divergence: Divergence
    teacher_temperature: float
    wants_slope: bool

    def __call__(self, teacher: Tensor, student: Tensor, weights: Tensor) -> Tensor:
        """Nats [n] of logits [n, V]; where wanted, `student` becomes the derivative of sum(weights * nats).

        Args:
            teacher: [n, V] float32 or float64 logits, or log-probs.
            student: [n, V] same dtype, logits; contiguous.
            weights: [n] same dtype.
        """
        if self.teacher_temperature != 1.0:
            teacher = teacher * (1.0 / self.teacher_temperature)
        log_p = teacher - torch.logsumexp(teacher, dim=1, keepdim=True)
        log_q = student - torch.logsumexp(student, dim=1, keepdim=True)
        entries, slope = self.divergence.entries(log_p, log_q)
        nats = entries.sum(1)
        if self.wants_slope:
            # Through the softmax: d log_q[v] / d logits[u] = (u == v) - q[u].
            through = log_q.exp() * slope.sum(1, keepdim=True)
            student.copy_(weights.unsqueeze(1) * (slope - through))
        return nats


Backend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What `Comparison.__call__` is, for at least two float32 rows of one vocabulary on one device."""


@torch.no_grad()
def compare(comparison: Comparison, teacher: Tensor, student: Tensor, weights: Tensor) -> Tensor:
    """`comparison` of tiles of any height, by the fastest backend that is right; see `Comparison.__call__`."""
    backend: Backend = comparison
    if student.dtype == torch.float32 and student.shape[0] > 1 and student.numel() >= MIN_FUSED_ENTRIES:
        backend = fused_backend(comparison, student.shape[1], student.device)
    if student.is_cuda and backend is not comparison:
        return backend(teacher.contiguous(), student, weights)
    nats = student.new_empty(student.shape[0])
    for rows in _blocks(student.shape[0], student.shape[1]):
        # A single row would be compiled once more, for nothing.
        run = backend if rows.stop - rows.start > 1 else comparison
        nats[rows] = run(teacher[rows].contiguous(), student[rows], weights[rows])
    return nats


def _block_height(num_ids: int) -> int:
    """Rows of a block: at least two, and at least one for each thread."""
    return max(2, torch.get_num_threads() * max(1, BLOCK_BYTES // (4 * num_ids)))


def _blocks(num_rows: int, num_ids: int) -> Iterator[slice]:
    """Slices of almost equal height."""
    count = -(-num_rows // _block_height(num_ids))
    edges = [index * num_rows // count for index in range(count)] + [num_rows]
    return (slice(*pair) for pair in pairwise(edges))


@lru_cache(maxsize=64)
def fused_backend(comparison: Comparison, num_ids: int, device: torch.device) -> Backend:
    """The fastest backend that agrees with eager torch for this vocabulary and device; eager torch if none does."""
    makers = [_triton, _compiled] if device.type == "cuda" else [_compiled]
    for make in makers:
        try:
            backend = make(comparison)
            if backend is None:
                continue
            difference = disagreement(backend, comparison, num_ids, device)
        except Exception as error:  # whatever a compiler or a driver may raise
            logger.warning("%s is unavailable for the loss: %s", make.__name__.strip("_"), _first_line(error))
            continue
        if difference <= RELATIVE_TOLERANCE:
            return backend
        logger.warning("%s differs from eager torch by %.1e for %s", make.__name__.strip("_"), difference, comparison)
    logger.warning("the loss runs in eager torch, which is several times slower than compiled")
    return comparison


@torch.no_grad()
def disagreement(backend: Backend, comparison: Comparison, num_ids: int, device: torch.device) -> float:
    """Largest difference between `backend` and `comparison` on a random problem, relative to the largest entry."""
    generator = torch.Generator().manual_seed(0)
    height = _block_height(num_ids)
    student = torch.randn(height, num_ids, generator=generator)
    # Far from p = q, where the total variation has a step.
    teacher = student + 0.5 * torch.randn(height, num_ids, generator=generator).sign()
    weights = torch.rand(height, generator=generator)
    teacher, student, weights = teacher.to(device), student.to(device), weights.to(device)
    exact = student.double()
    exact_nats = comparison(teacher.double(), exact, weights.double())
    # The number of rows stays a variable of compiled code; the vocabulary is a constant.
    for tensor in (teacher, student, weights):
        torch._dynamo.mark_dynamic(tensor, 0)
    nats = backend(teacher, student, weights)
    pairs = [(nats, exact_nats)] + ([(student, exact)] if comparison.wants_slope else [])
    worst = max(float((ours - right).abs().max() / right.abs().max()) for ours, right in pairs)
    return worst if worst == worst else float("inf")


def _compiled(comparison: Comparison) -> Backend:
    def step(teacher: Tensor, student: Tensor, weights: Tensor) -> Tensor:
        return comparison(teacher, student, weights)

    # One thread compiles: a pool of processes would hold as much memory as the learner's body.
    arguments: dict[str, Any] = {"isolate_recompiles": True, "options": {"compile_threads": 1}}
    return cast(Backend, torch.compile(step, fullgraph=True, **arguments))


def _triton(comparison: Comparison) -> Backend | None:
    from gkd_dist.divergences.triton_rows import triton_backend  # Triton is there with CUDA alone

    return triton_backend(comparison)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
