"""The loss over hidden states, never holding [N, V] for more than one chunk of tokens (floor F0).

    student hidden [n, Hs] x head  -> logits [n, V] -> log Q --+
    teacher hidden [n, Ht] x head  -> logits [n, V] -> log P --+-> D [n] -> d logits [n, V]
                                                                             -> d hidden [n, Hs], d head [V, Hs]

The gradients are computed in the forward pass, while the chunk's logits exist; the backward pass only multiplies
them by the upstream scalar. Work: 2 * N * V * (3 * Hs + Ht) FLOPs, nothing projected twice. Memory: a few
[chunk_tokens, V] tiles, and one float32 accumulator of the head's size.

The loop projects and accumulates; what is compared with the student's logits is the business of its terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gkd_dist.divergences import budget
from gkd_dist.divergences.dense import DenseTerm, TeacherLogits
from gkd_dist.divergences.kinds import Divergence
from gkd_dist.divergences.product import accumulate_, check_compute_dtype, multiply, operand
from gkd_dist.divergences.readout import Readout
from gkd_dist.divergences.terms import Term


@dataclass(frozen=True, slots=True, eq=False)
class ChunkedResult:
    """What `chunked_loss` returns."""

    loss: Tensor
    """[] float32, nats: sum over terms and tokens of weight * nats, with gradient to the student."""
    per_term: tuple[Tensor, ...]
    """[N] float32 for each term, nats: its unweighted value at each token, detached."""

    @property
    def per_token(self) -> Tensor:
        """[N] of the first term."""
        return self.per_term[0]


def chunked_divergence(
    student_hidden: Tensor,
    student_readout: Readout,
    teacher_logits: TeacherLogits,
    token_weights: Tensor,
    divergence: Divergence,
    *,
    teacher_temperature: float = 1.0,
    chunk_tokens: int | None = None,
    memory_bytes: int | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> ChunkedResult:
    """Weighted sum over N tokens of the divergence between teacher and student, over the full vocabulary.

    The same as `chunked_loss` of one `DenseTerm`.
    """
    term = DenseTerm(teacher_logits, divergence, token_weights, teacher_temperature)
    return chunked_loss(
        student_hidden,
        student_readout,
        [term],
        chunk_tokens=chunk_tokens,
        memory_bytes=memory_bytes,
        compute_dtype=compute_dtype,
    )


def chunked_loss(
    student_hidden: Tensor,
    student_readout: Readout,
    terms: Sequence[Term],
    *,
    chunk_tokens: int | None = None,
    memory_bytes: int | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> ChunkedResult:
    """Sum of `terms` over N tokens, given the student's hidden states.

    The student's temperature is 1. Without gradient mode, or when nothing of the student requires a gradient, only
    the values are computed.

    Args:
        student_hidden: [N, H] float32, bfloat16 or float64, after the final norm; row n predicts token n.
        student_readout: the student's LM head.
        terms: at least one, each over the same N tokens and the readout's ids.
        chunk_tokens: tokens per chunk. It bounds the memory and does not change the result. None: as many as
            `memory_bytes` allows, see `budget.chunk_tokens`.
        memory_bytes: for the logits of one chunk; None means the device's default.
        compute_dtype: float32, or bfloat16 to round the inputs of every product while results stay float32.

    Returns:
        Loss and values in float32 (float64 for float64 hidden states). Gradients come in the dtypes of
        student_hidden, weight and bias, after accumulation in float32.

    Raises:
        ValueError: shapes that do not fit each other (both are printed), or a number out of range.
    """
    _check_rows("student_hidden", student_hidden, student_readout)
    check_compute_dtype(compute_dtype)
    if not terms:
        raise ValueError("a loss needs at least one term")
    for term in terms:
        if term.weights.shape != student_hidden.shape[:1]:
            raise ValueError(
                f"token_weights {list(term.weights.shape)} does not fit student_hidden "
                f"{list(student_hidden.shape)} [N, H]"
            )
    dtype = torch.promote_types(student_hidden.dtype, torch.float32)
    if chunk_tokens is None:
        chunk_tokens = budget.chunk_tokens(
            student_readout.vocabulary_size,
            dtype,
            student_hidden.device.type,
            num_tiles=2 + (len(terms) > 1 or student_readout.soft_cap is not None),
            memory_bytes=memory_bytes,
        )
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    loop = _Loop(
        readout=student_readout.frozen(compute_dtype),
        terms=tuple(terms),
        dtype=dtype,
        chunk_tokens=chunk_tokens,
        compute_dtype=compute_dtype,
    )
    student = (student_hidden, student_readout.weight, student_readout.bias)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in student):
        loss, *per_term = _Chunked.apply(*student, loop)  # type: ignore[no-untyped-call]
    else:
        loss, per_term = loop.run(student_hidden.detach(), _Gradients())
    return ChunkedResult(loss, tuple(per_term))


@dataclass(slots=True, eq=False)
class _Gradients:
    """Float32 accumulators of the gradients that are wanted; None for the others."""

    hidden: Tensor | None = None
    """[N, H]"""
    weight: Tensor | None = None
    """[V, H], padding rows included."""
    bias: Tensor | None = None
    """[V], padding ids included."""

    @property
    def any_wanted(self) -> bool:
        return any(gradient is not None for gradient in (self.hidden, self.weight, self.bias))


@dataclass(frozen=True, slots=True, eq=False)
class _Loop:
    """Everything about one call of `chunked_loss` but the tensors that autograd follows."""

    readout: Readout
    terms: tuple[Term, ...]
    dtype: torch.dtype
    chunk_tokens: int
    compute_dtype: torch.dtype

    @torch.no_grad()
    def run(self, student_hidden: Tensor, gradients: _Gradients) -> tuple[Tensor, list[Tensor]]:
        """Loss [] and values [N] of each term; adds to the accumulators on the way."""
        num_tokens = student_hidden.shape[0]
        per_term = [torch.empty(num_tokens, dtype=self.dtype, device=student_hidden.device) for _ in self.terms]
        # Inside autocast the products would come back rounded to bfloat16.
        with torch.autocast(student_hidden.device.type, enabled=False):
            for start in range(0, num_tokens, self.chunk_tokens):
                span = slice(start, min(start + self.chunk_tokens, num_tokens))
                rows = operand(student_hidden[span], self.compute_dtype)
                self._chunk(rows, span, per_term, gradients)
        weights = [term.weights.to(per_term[0]) for term in self.terms]
        loss = sum((torch.dot(*pair) for pair in zip(weights, per_term, strict=True)), per_term[0].new_zeros(()))
        return loss, per_term

    def _chunk(self, rows: Tensor, span: slice, per_term: list[Tensor], gradients: _Gradients) -> None:
        """One chunk of hidden states [n, H]: values into `per_term`, gradients into their accumulators."""
        logits = self.readout.finish(multiply(rows, self.readout.weight.T, self.compute_dtype))
        # The way back through a soft cap needs the logits again.
        keeps_logits = gradients.any_wanted and self.readout.soft_cap is not None
        total: Tensor | None = None
        for index, (term, nats) in enumerate(zip(self.terms, per_term, strict=True), start=1):
            owns_logits = index == len(self.terms) and not keeps_logits
            part = term.chunk(logits, span, wants_slope=gradients.any_wanted, owns_logits=owns_logits)
            nats[span] = part.nats
            if part.slope is not None:
                total = part.slope if total is None else total.add_(part.slope)
        if total is not None:
            slope = self.readout.finish_backward(logits if keeps_logits else None, total)
            del logits, part, total
            self._accumulate(slope, rows, span, gradients)

    def _accumulate(self, slope: Tensor, rows: Tensor, span: slice, gradients: _Gradients) -> None:
        """Take `slope` [n, V], the loss's derivative with respect to the product h W^T, back through it."""
        num_ids = slope.shape[1]
        if gradients.bias is not None:
            gradients.bias[:num_ids] += slope.sum(0)
        slope = operand(slope, self.compute_dtype)
        if gradients.hidden is not None:
            gradients.hidden[span] = multiply(slope, self.readout.weight, self.compute_dtype)
        if gradients.weight is not None:
            accumulate_(gradients.weight[:num_ids], slope.T, rows, self.compute_dtype)


class _Chunked(torch.autograd.Function):
    """Loss with gradients that the forward pass has computed."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, loop: _Loop) -> tuple[Tensor, ...]:
        dtype = loop.dtype
        accumulators = [
            torch.zeros_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
            if wanted and tensor is not None
            else None
            for tensor, wanted in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        ]
        loss, per_term = loop.run(hidden, _Gradients(*accumulators))
        # Not saved by autograd, which would keep a reference and so force a copy of what is handed out.
        ctx.gradients = accumulators
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden, weight, bias)]
        ctx.mark_non_differentiable(*per_term)
        return loss, *per_term

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "this loss was backpropagated before and has handed its gradients out; compute the loss again"
            )
        # The usual upstream gradient is 1; where looking at it would wait for a GPU, multiply.
        factor = grad_loss if grad_loss.is_cuda or bool(grad_loss != 1) else None
        return (*(_scaled(*pair, factor) for pair in zip(gradients, ctx.dtypes, strict=True)), None)


def _scaled(gradient: Tensor | None, dtype: torch.dtype, factor: Tensor | None) -> Tensor | None:
    """gradient * factor in `dtype`, in place where that is its dtype."""
    if gradient is None:
        return None
    return (gradient if factor is None else gradient.mul_(factor)).to(dtype)


def _check_rows(name: str, hidden: Tensor, readout: Readout) -> None:
    if hidden.ndim != 2:
        raise ValueError(f"{name} must be [N, H], got shape {list(hidden.shape)}")
    readout.check(hidden, name)
