"""From the name of a divergence to the function (floor F0)."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from torch import Tensor

from gkd_dist.divergences.pointwise import check_beta, forward_kl, jsd, reverse_kl, tvd

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(teacher_log_probs [..., V], student_log_probs [..., V]) -> nats [...], gradient to the student alone."""

DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd", "tvd"]


def make_divergence(kind: DivergenceKind, *, beta: float = 0.5, normalize_jsd: bool = False) -> Divergence:
    """The divergence a configuration asks for; it pickles.

    Args:
        kind: `forward_kl` = KL(teacher || student), `reverse_kl` = KL(student || teacher), `jsd` or `tvd`.
        beta: weight of the teacher in the mixture of `jsd`; the others ignore it.
        normalize_jsd: divide `jsd` by beta * (1 - beta), which makes the family continuous with the two KL at
            its ends; the others ignore it.

    Raises:
        ValueError: an unknown kind, or `jsd` with beta outside (0, 1).
    """
    match kind:
        case "forward_kl":
            return forward_kl
        case "reverse_kl":
            return reverse_kl
        case "tvd":
            return tvd
        case "jsd":
            check_beta(beta)
            return partial(_normalized_jsd if normalize_jsd else jsd, beta=beta)
    raise ValueError(f"unknown divergence {kind!r}; choose one of {', '.join(get_args(DivergenceKind))}")


def _normalized_jsd(teacher_log_probs: Tensor, student_log_probs: Tensor, beta: float) -> Tensor:
    return jsd(teacher_log_probs, student_log_probs, beta) / (beta * (1 - beta))
