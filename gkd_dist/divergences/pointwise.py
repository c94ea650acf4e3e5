"""Divergences between two distributions over the vocabulary, entry by entry (floor F0: torch).

One convention for the whole package: P is the teacher, Q the student, M = beta * P + (1 - beta) * Q.

Each function carries its analytic derivative with respect to the student's log-probs, so zero
probabilities (log-prob -inf) cost no NaN: 0 * log 0 is 0 in the value and in the derivative. Computation is in
float32 or, if an argument has it, float64; halves are widened.

Source: Agarwal et al., "On-Policy Distillation of Language Models", arXiv 2306.13649, section 2 and eq. 1.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def forward_kl(teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
    """KL(P || Q) = sum_v P * (log P - log Q), nats; inf where P has mass and Q has none.

    Args:
        teacher_log_probs: [..., V] float, log-softmax of the teacher; receives no gradient.
        student_log_probs: [..., V] float, log-softmax of the student.

    Returns:
        [...] float32 (float64 if an argument is), with gradient to the student alone.

    Raises:
        ValueError: the shapes differ, there is no vocabulary axis, or a dtype is not floating.
    """
    teacher, student = _checked(teacher_log_probs, student_log_probs)
    with torch.no_grad():
        p = teacher.exp()
        nats = _weigh_(teacher - student, p).sum(-1)
        slope = p.neg_()
    return _attach(student, nats, slope)


def reverse_kl(teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
    """KL(Q || P) = sum_v Q * (log Q - log P), nats; inf (with no usable gradient) where Q has mass and P has none.

    Args, Returns, Raises: as `forward_kl`.
    """
    teacher, student = _checked(teacher_log_probs, student_log_probs)
    with torch.no_grad():
        q = student.exp()
        terms = _weigh_(student - teacher, q)
        nats = terms.sum(-1)
        slope = terms.add_(q)
    return _attach(student, nats, slope)


def jsd(teacher_log_probs: Tensor, student_log_probs: Tensor, beta: float = 0.5) -> Tensor:
    """Generalized Jensen-Shannon divergence beta * KL(P || M) + (1 - beta) * KL(Q || M), nats.

    It is finite for any P and Q and tends to 0 towards both ends of beta: divided by beta it tends to KL(P || Q)
    at 0, and divided by (1 - beta) to KL(Q || P) at 1.

    Args:
        teacher_log_probs: [..., V] float, log-softmax of the teacher; receives no gradient.
        student_log_probs: [..., V] float, log-softmax of the student.
        beta: weight of the teacher in M, 0 < beta < 1.

    Returns:
        [...] float32 (float64 if an argument is), with gradient to the student alone.

    Raises:
        ValueError: as `forward_kl`, or beta is not inside (0, 1).

    Source: arXiv 2306.13649, eq. 1.
    """
    check_beta(beta)
    teacher, student = _checked(teacher_log_probs, student_log_probs)
    with torch.no_grad():
        log_m = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
        nats = _weigh_(teacher - log_m, teacher.exp()).sum(-1).mul_(beta)
        terms = _weigh_(torch.sub(student, log_m, out=log_m), student.exp()).mul_(1 - beta)
        nats += terms.sum(-1)
    # The derivative by way of M cancels the one by way of the leading Q, so the terms are their own derivative.
    return _attach(student, nats, terms)


def tvd(teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
    """Total variation distance 0.5 * sum_v |P - Q|, in [0, 1]; the derivative where P = Q is taken as 0.

    Args, Returns, Raises: as `forward_kl`.
    """
    teacher, student = _checked(teacher_log_probs, student_log_probs)
    with torch.no_grad():
        q = student.exp()
        difference = q - teacher.exp()
        nats = difference.abs().sum(-1).mul_(0.5)
        slope = difference.sign_().mul_(q).mul_(0.5)
    return _attach(student, nats, slope)


def check_beta(beta: float) -> None:
    """Raises ValueError unless 0 < beta < 1."""
    if not 0 < beta < 1:
        raise ValueError(
            f"jsd needs 0 < beta < 1, got {beta}; the ends are divergences of their own: "
            "forward_kl (the limit towards beta = 0) and reverse_kl (towards beta = 1)"
        )


def _checked(teacher_log_probs: Tensor, student_log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype of at least 32 bits, the teacher detached."""
    if teacher_log_probs.shape != student_log_probs.shape or teacher_log_probs.ndim == 0:
        raise ValueError(
            "teacher and student log-probs must have one shape [..., V], got "
            f"{list(teacher_log_probs.shape)} and {list(student_log_probs.shape)}"
        )
    if not (teacher_log_probs.is_floating_point() and student_log_probs.is_floating_point()):
        raise ValueError(
            f"log-probs must be floating point, got {teacher_log_probs.dtype} and {student_log_probs.dtype}"
        )
    dtype = torch.promote_types(torch.promote_types(teacher_log_probs.dtype, student_log_probs.dtype), torch.float32)
    return teacher_log_probs.detach().to(dtype), student_log_probs.to(dtype)


def _weigh_(log_ratio: Tensor, probs: Tensor) -> Tensor:
    """probs * log_ratio in place of log_ratio, with 0 * anything = 0."""
    return log_ratio.mul_(probs).masked_fill_(probs == 0, 0.0)


def _attach(student_log_probs: Tensor, nats: Tensor, slope: Tensor) -> Tensor:
    return cast(Tensor, _Attach.apply(student_log_probs, nats, slope))  # type: ignore[no-untyped-call]


class _Attach(torch.autograd.Function):
    """Gives `nats` [...] the derivative `slope` [..., V] with respect to the student's log-probs."""

    @staticmethod
    def forward(ctx: Any, student_log_probs: Tensor, nats: Tensor, slope: Tensor) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(slope)
        return nats.view_as(nats)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad.unsqueeze(-1) * slope, None, None
