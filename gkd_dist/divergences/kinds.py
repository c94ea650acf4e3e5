"""The divergences, each with what every entry of the vocabulary adds to it (floor F0).

One convention for the whole package: P is the teacher, Q the student, everything is in nats.

An entry is a function of (log p, log q) and comes with its derivative with respect to log q, so that a kernel may
form value and gradient in one pass, over the vocabulary or over a coarser partition of it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd", "tvd", "skewed_forward_kl", "skewed_reverse_kl"]


class Divergence(ABC):
    """D(P, Q) = sum over v of entry(log p_v, log q_v) >= 0, zero where P = Q. Pickles; equal when its numbers are.

    `balance` makes each entry non-negative: entry + balance * (q - p) >= 0. Summed over the whole vocabulary that
    changes nothing; over a part of it, it is the generalised form of the divergence for measures that do not sum to 1.
    """

    @property
    @abstractmethod
    def balance(self) -> float:
        """Makes each entry non-negative, see above."""

    @abstractmethod
    def entries(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """Entries [..., V] and their derivatives with respect to log_q [..., V]; pure, without side effects.

        Zero probabilities (-inf) cost no NaN: 0 * log 0 is 0 in the value and in the derivative.

        Args:
            log_p: [..., V] float32 or float64, of the teacher.
            log_q: [..., V] same dtype, of the student.
        """

    def __call__(self, teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
        """Nats [...] of log-probs [..., V], with gradient to the student; see `pointwise.forward_kl`."""
        teacher, student = _checked(teacher_log_probs, student_log_probs)
        with torch.no_grad():
            entries, slope = self.entries(teacher, student)
        return cast(Tensor, _Attach.apply(student, entries.sum(-1), slope))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class ForwardKl(Divergence):
    """KL(P || Q) = sum p * (log p - log q)."""

    @property
    def balance(self) -> float:
        return 1.0

    def entries(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        p = log_p.exp()
        return _weigh(log_p - log_q, p), -p


@dataclass(frozen=True, slots=True)
class ReverseKl(Divergence):
    """KL(Q || P) = sum q * (log q - log p)."""

    @property
    def balance(self) -> float:
        return -1.0

    def entries(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        q = log_q.exp()
        terms = _weigh(log_q - log_p, q)
        return terms, terms + q


@dataclass(frozen=True, slots=True)
class Jsd(Divergence):
    """beta * KL(P || M) + (1 - beta) * KL(Q || M), M = beta * P + (1 - beta) * Q (arXiv 2306.13649, eq. 1).

    Args:
        beta: weight of the teacher in M, 0 < beta < 1.
        normalized: divide by beta * (1 - beta), which makes the family continuous with the two KL at its ends.
    """

    beta: float = 0.5
    normalized: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise ValueError(
                f"jsd needs 0 < beta < 1, got {self.beta}; the ends are divergences of their own: "
                "forward_kl (the limit towards beta = 0) and reverse_kl (towards beta = 1)"
            )

    @property
    def balance(self) -> float:
        return 0.0

    def entries(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.beta
        p, q = log_p.exp(), log_q.exp()
        log_m = _mixture(p, q, beta).log()
        scale = 1.0 / (beta * (1 - beta)) if self.normalized else 1.0
        # The derivative by way of M cancels the one by way of the leading q: the second term is its own derivative.
        student = (scale * (1 - beta)) * _weigh(log_q - log_m, q)
        return (scale * beta) * _weigh(log_p - log_m, p) + student, student


@dataclass(frozen=True, slots=True)
class Tvd(Divergence):
    """0.5 * sum |p - q|, in [0, 1]; the derivative where p = q is taken as 0."""

    @property
    def balance(self) -> float:
        return 0.0

    def entries(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        q = log_q.exp()
        difference = q - log_p.exp()
        return 0.5 * difference.abs(), 0.5 * difference.sign() * q


@dataclass(frozen=True, slots=True)
class SkewedForwardKl(Divergence):
    """KL(P || skew * P + (1 - skew) * Q) (DistiLLM, arXiv 2402.03898).

    Args:
        skew: weight of the teacher in the mixture, 0 < skew < 1.
    """

    skew: float = 0.1

    def __post_init__(self) -> None:
        _check_skew(self.skew)

    @property
    def balance(self) -> float:
        return 1.0 - self.skew

    def entries(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        p, q = log_p.exp(), log_q.exp()
        m = _mixture(p, q, self.skew)
        return _weigh(log_p - m.log(), p), -(1 - self.skew) * _weigh(q / m, p)


@dataclass(frozen=True, slots=True)
class SkewedReverseKl(Divergence):
    """KL(Q || (1 - skew) * P + skew * Q) (DistiLLM, arXiv 2402.03898).

    Args:
        skew: weight of the student in the mixture, 0 < skew < 1.
    """

    skew: float = 0.1

    def __post_init__(self) -> None:
        _check_skew(self.skew)

    @property
    def balance(self) -> float:
        return -(1.0 - self.skew)

    def entries(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        p, q = log_p.exp(), log_q.exp()
        m = _mixture(p, q, 1 - self.skew)
        terms = _weigh(log_q - m.log(), q)
        return terms, terms + q - self.skew * _weigh(q / m, q)


def make_divergence(
    kind: DivergenceKind, *, beta: float = 0.5, normalize_jsd: bool = False, skew: float = 0.1
) -> Divergence:
    """The divergence a configuration asks for.

    Args:
        kind: one of `DivergenceKind`.
        beta: weight of the teacher in the mixture of `jsd`; the others ignore it.
        normalize_jsd: of `jsd`, see `Jsd`.
        skew: of the two skewed KL; the others ignore it.

    Raises:
        ValueError: an unknown kind, or a number out of the range of its kind.
    """
    match kind:
        case "forward_kl":
            return ForwardKl()
        case "reverse_kl":
            return ReverseKl()
        case "tvd":
            return Tvd()
        case "jsd":
            return Jsd(beta, normalize_jsd)
        case "skewed_forward_kl":
            return SkewedForwardKl(skew)
        case "skewed_reverse_kl":
            return SkewedReverseKl(skew)
    raise ValueError(f"unknown divergence {kind!r}; choose one of {', '.join(get_args(DivergenceKind))}")


def _weigh(values: Tensor, probs: Tensor) -> Tensor:
    """probs * values, with 0 * anything = 0."""
    return torch.where(probs == 0, 0.0, probs * values)


def _mixture(p: Tensor, q: Tensor, share: float) -> Tensor:
    """share * p + (1 - share) * q, never 0: the smallest p and q there are would be lost in it, and log(0) is -inf."""
    return (share * p + (1 - share) * q).clamp_(min=torch.finfo(p.dtype).tiny)


def _check_skew(skew: float) -> None:
    if not 0 < skew < 1:
        raise ValueError(f"a skewed KL needs 0 < skew < 1, got {skew}; 0 is the plain forward_kl or reverse_kl")


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
