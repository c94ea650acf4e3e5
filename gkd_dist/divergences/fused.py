"""From two tiles of logits to a divergence and its derivative, in few passes and in place (floor F0).

Three backends compute the same `Comparison`:

* eager torch: the definition. float64 and problems below `MIN_FUSED_ENTRIES` always use it.
* `torch.compile`: CPU (needs a C++ compiler) and GPU.
* `gkd_dist.divergences.triton_rows`: NVIDIA GPUs.

The last two are used after they have agreed with the first on a small problem in this very process; where
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

CUDA_BLOCK_BYTES = 1 << 28
"""Where eager torch works on a GPU: long enough for its kernels, and its temporaries stay within the tile that
`budget.chunk_tokens` allows for them by default."""

RELATIVE_TOLERANCE = 2e-5
"""Largest `disagreement` of a backend: float32 sums over V terms in another order, and other approximations of exp and
log. Eager torch itself is off float64 by 5e-6 at 151,936 ids, compiled code by 1.3e-6 at 32,000."""


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
    for rows in _blocks(student.shape[0], _block_height(student.shape[1], student.device)):
        # A single row would be compiled once more, for nothing.
        run = backend if rows.stop - rows.start > 1 else comparison
        nats[rows] = run(teacher[rows].contiguous(), student[rows], weights[rows])
    return nats


def _block_height(num_ids: int, device: torch.device) -> int:
    """Rows of a block: at least two, and on a CPU at least one for each thread."""
    if device.type == "cuda":
        return max(2, CUDA_BLOCK_BYTES // (4 * num_ids))
    return max(2, torch.get_num_threads() * max(1, BLOCK_BYTES // (4 * num_ids)))


def _blocks(num_rows: int, height: int) -> Iterator[slice]:
    """Slices of almost equal height."""
    count = -(-num_rows // height)
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
    _warn_of_eager()
    return comparison


@lru_cache(maxsize=1)
def _warn_of_eager() -> None:
    """Once in a process, whatever the number of divergences, vocabularies and threads."""
    logger.warning("the loss runs in eager torch, which is several times slower than compiled")


@torch.no_grad()
def disagreement(backend: Backend, comparison: Comparison, num_ids: int, device: torch.device) -> float:
    """Largest relative difference between `backend` and `comparison` in float64, over the rows of `_problems`.

    That of the nats, and of the slope by its largest entry and by the sum over its ids. The size of a slope is here at
    least weight * (1 + nats) * q, since that of a row that has settled is all cancellation. Infinite where something
    is not a number.
    """
    teacher, student = (rows.to(device) for rows in _problems(num_ids, comparison.teacher_temperature))
    weights = torch.linspace(0.25, 1.0, len(student), device=device)
    exact, exact_weights = student.double(), weights.double()
    largest_q = exact.softmax(1).amax(1)
    exact_nats = comparison(teacher.double(), exact, exact_weights)
    # The number of rows stays a variable of compiled code; the vocabulary is a constant.
    for tensor in (teacher, student, weights):
        torch._dynamo.mark_dynamic(tensor, 0)
    nats = backend(teacher, student, weights)
    errors = [((nats - exact_nats).abs() / exact_nats.abs()).max()]
    if comparison.wants_slope:
        error, size, unit = (student - exact).abs(), exact.abs(), exact_weights * (1 + exact_nats.abs())
        errors.append((error.amax(1) / (size.amax(1) + unit * largest_q)).max())
        errors.append((error.sum(1) / (size.sum(1) + unit)).max())
    worst = float(torch.stack(errors).max())
    return worst if worst == worst else float("inf")


def _problems(num_ids: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Teacher and student logits [18, num_ids] float32: ordinary rows, and those that softmaxes have trouble with."""
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, num_ids, generator=generator) for _ in range(2))
    low = torch.arange(num_ids) % 3 == 1
    pairs = [(one + 0.5 * other.sign(), one), (10.0 * other, 10.0 * one)]  # the second is nearly one-hot
    for far in (-200.0, -103.0):  # of probability 0, and of the smallest there is
        pairs += [(one.masked_fill(low, far), other), (one, other.masked_fill(low, far))]
        pairs += [(one.masked_fill(low, far), other.masked_fill(low, far))]
    pairs += [(one.masked_fill(low, -torch.inf), other.masked_fill(low, -torch.inf))]
    teacher, student = (torch.cat(rows) for rows in zip(*pairs, strict=True))
    # Away from p = q, where the total variation has a step.
    gap = torch.log_softmax(teacher.double() / temperature, 1) - torch.log_softmax(student.double(), 1)
    return teacher + 0.01 * temperature * (gap.abs() < 1e-3), student


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
