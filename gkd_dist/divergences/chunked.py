"""The loss over hidden states, never holding [N, V] for more than one chunk of tokens (floor F0).

    student hidden [n, Hs] x head  -> logits [n, V] -> log Q --+
    teacher hidden [n, Ht] x head  -> logits [n, V] -> log P --+-> D [n] -> d logits [n, V]
                                                                             -> d hidden [n, Hs], d head [V, Hs]

The gradients are computed in the forward pass, while the chunk's logits exist; the backward pass only multiplies
them by the upstream scalar. Work: 2 * N * V * (3 * Hs + Ht) FLOPs, nothing projected twice. Memory: a few
[chunk_tokens, V] tiles, and one float32 accumulator of the head's size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gkd_dist.divergences.kinds import Divergence
from gkd_dist.divergences.product import accumulate_, check_compute_dtype, multiply, operand
from gkd_dist.divergences.readout import Readout

TeacherLogits = Callable[[slice], Tensor]
"""Teacher logits [n, V] float32 of a slice of the N tokens. Log-probs serve as well: their log-softmax is the same."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkedResult:
    """What `chunked_divergence` returns."""

    loss: Tensor
    """[] float32, nats: sum over tokens of weight * divergence, with gradient to the student."""
    per_token: Tensor
    """[N] float32, nats: the unweighted divergence of each token, detached."""


def hidden_teacher(hidden: Tensor, readout: Readout, *, compute_dtype: torch.dtype = torch.float32) -> TeacherLogits:
    """Teacher logits from its hidden states, projected chunk by chunk.

    Args:
        hidden: [N, H] any floating dtype, after the final norm.
        readout: the teacher's; it receives no gradient.
        compute_dtype: input precision of the product, as in `chunked_divergence`.

    Raises:
        ValueError: `hidden` is not [N, H] for the readout's H, or another compute_dtype.
    """
    _check_rows("teacher hidden", hidden, readout)
    check_compute_dtype(compute_dtype)
    rows, frozen = hidden.detach(), readout.frozen(compute_dtype)
    return lambda span: frozen.logits(rows[span], compute_dtype=compute_dtype)


def full_teacher(log_probs: Tensor) -> TeacherLogits:
    """Teacher logits from log-probs [N, V] (or logits) that are already there.

    Raises:
        ValueError: `log_probs` has not two axes.
    """
    if log_probs.ndim != 2:
        raise ValueError(f"log_probs must be [N, V], got shape {list(log_probs.shape)}")
    rows = log_probs.detach()
    return lambda span: rows[span]


def chunked_divergence(
    student_hidden: Tensor,
    student_readout: Readout,
    teacher_logits: TeacherLogits,
    token_weights: Tensor,
    divergence: Divergence,
    *,
    teacher_temperature: float = 1.0,
    chunk_tokens: int = 256,
    compute_dtype: torch.dtype = torch.float32,
) -> ChunkedResult:
    """Weighted sum over N tokens of the divergence between teacher and student, over the full vocabulary.

    The student's temperature is 1. Without gradient mode, or when nothing of the student requires a gradient, only
    the values are computed.

    Args:
        student_hidden: [N, H] float32, bfloat16 or float64, after the final norm; row n predicts token n.
        student_readout: the student's LM head. Its V ids must be the teacher's.
        teacher_logits: gives the teacher's logits of a slice of tokens; called once per chunk, without gradient.
        token_weights: [N] float32, from `reduction.token_weights`; receives no gradient.
        divergence: from `make_divergence`.
        teacher_temperature: the teacher's log-probs are log_softmax(logits / teacher_temperature).
        chunk_tokens: tokens per chunk. It bounds the memory and does not change the result.
        compute_dtype: float32, or bfloat16 to round the inputs of every product while results stay float32.

    Returns:
        Loss and per-token divergences in float32 (float64 for float64 hidden states). Gradients come in the dtypes
        of student_hidden, weight and bias, after accumulation in float32.

    Raises:
        ValueError: shapes that do not fit each other (both are printed), or a number out of range.
    """
    _check_rows("student_hidden", student_hidden, student_readout)
    check_compute_dtype(compute_dtype)
    if token_weights.shape != student_hidden.shape[:1]:
        raise ValueError(
            f"token_weights {list(token_weights.shape)} does not fit student_hidden {list(student_hidden.shape)} [N, H]"
        )
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    if not 0 < teacher_temperature < float("inf"):
        raise ValueError(f"teacher_temperature must be positive and finite, got {teacher_temperature}")
    dtype = torch.promote_types(student_hidden.dtype, torch.float32)
    comparison = _Comparison(
        readout=student_readout.frozen(compute_dtype),
        teacher_logits=teacher_logits,
        token_weights=token_weights.detach().to(device=student_hidden.device, dtype=dtype),
        divergence=divergence,
        teacher_temperature=teacher_temperature,
        chunk_tokens=chunk_tokens,
        compute_dtype=compute_dtype,
    )
    student = (student_hidden, student_readout.weight, student_readout.bias)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in student):
        loss, per_token = _Chunked.apply(*student, comparison)  # type: ignore[no-untyped-call]
    else:
        loss, per_token = comparison.run(student_hidden.detach(), _Gradients())
    return ChunkedResult(loss, per_token)


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
class _Comparison:
    """Everything about one call of `chunked_divergence` but the tensors that autograd follows."""

    readout: Readout
    teacher_logits: TeacherLogits
    token_weights: Tensor
    divergence: Divergence
    teacher_temperature: float
    chunk_tokens: int
    compute_dtype: torch.dtype

    @torch.no_grad()
    def run(self, student_hidden: Tensor, gradients: _Gradients) -> tuple[Tensor, Tensor]:
        """Loss [] and divergences [N]; adds to the accumulators on the way."""
        per_token = torch.empty_like(self.token_weights)
        # Inside autocast the products would come back rounded to bfloat16.
        with torch.autocast(student_hidden.device.type, enabled=False):
            for start in range(0, len(per_token), self.chunk_tokens):
                span = slice(start, min(start + self.chunk_tokens, len(per_token)))
                rows = operand(student_hidden[span], self.compute_dtype)
                per_token[span] = self._chunk(rows, span, gradients)
        return torch.dot(self.token_weights, per_token), per_token

    def _chunk(self, rows: Tensor, span: slice, gradients: _Gradients) -> Tensor:
        """Divergences [n] of one chunk of hidden states [n, H]."""
        teacher_log_probs = self._teacher_log_probs(span)
        # A leaf of a graph that reaches from here to the divergence, and no further.
        product = multiply(rows, self.readout.weight.T, self.compute_dtype)
        product.requires_grad_(gradients.any_wanted)
        with torch.enable_grad():
            student_log_probs = torch.log_softmax(self.readout.finish(product), dim=-1)
            _check_ids(teacher_log_probs, student_log_probs)
            nats = self.divergence(teacher_log_probs, student_log_probs)
        if gradients.any_wanted:
            (slope,) = torch.autograd.grad(nats, product, self.token_weights[span])
            self._accumulate(slope, rows, span, gradients)
        return nats.detach()

    def _teacher_log_probs(self, span: slice) -> Tensor:
        logits = self.teacher_logits(span).to(self.token_weights)
        if self.teacher_temperature != 1.0:
            logits = logits / self.teacher_temperature
        return torch.log_softmax(logits, dim=-1)

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
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, comparison: _Comparison
    ) -> tuple[Tensor, Tensor]:
        dtype = comparison.token_weights.dtype
        accumulators = [
            torch.zeros_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
            if wanted and tensor is not None
            else None
            for tensor, wanted in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        ]
        loss, per_token = comparison.run(hidden, _Gradients(*accumulators))
        ctx.save_for_backward(*accumulators)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden, weight, bias)]
        ctx.mark_non_differentiable(per_token)
        return loss, per_token

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # Written straight into the wanted dtype: no second float32 tensor of the head's size.
        scaled = (
            None if gradient is None else torch.mul(gradient, grad_loss, out=torch.empty_like(gradient, dtype=dtype))
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*scaled, None)


def _check_rows(name: str, hidden: Tensor, readout: Readout) -> None:
    if hidden.ndim != 2:
        raise ValueError(f"{name} must be [N, H], got shape {list(hidden.shape)}")
    readout.check(hidden, name)


def _check_ids(teacher_log_probs: Tensor, student_log_probs: Tensor) -> None:
    if teacher_log_probs.shape != student_log_probs.shape:
        raise ValueError(
            f"teacher logits {list(teacher_log_probs.shape)} and student logits {list(student_log_probs.shape)} "
            "of a chunk differ; set num_ids of both readouts to the number of shared real ids"
        )
