"""Several teachers as one: mixtures of their distributions over the whole vocabulary (floor F0).

With weights w_i that sum to 1 and P_i = softmax(l_i / T_i):

    arithmetic  P = sum_i w_i * P_i               any teacher may propose a token
    geometric   P = prod_i P_i ** w_i / Z         all teachers must agree to it; Z makes the sum 1

Both are the barycentre of the teachers under a KL: the arithmetic mixture minimises sum_i w_i * KL(P_i || P), the
geometric one sum_i w_i * KL(P || P_i).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gkd_dist.divergences.dense import TeacherLogits

MixtureKind = Literal["arithmetic", "geometric"]

_BLOCK_ROWS = 16
"""Rows whose temporaries exist at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class MixedTeacher:
    """One teacher of a mixture.

    Raises:
        ValueError: weight or temperature is not positive and finite.
    """

    logits: TeacherLogits
    weight: float = 1.0
    """Relative to the others'."""
    temperature: float = 1.0
    """Of its softmax, before it is mixed."""

    def __post_init__(self) -> None:
        if not (0 < self.weight < math.inf and 0 < self.temperature < math.inf):
            raise ValueError(
                f"weight and temperature must be positive and finite, got {self.weight} and {self.temperature}"
            )


def mixed_teacher(teachers: Sequence[MixedTeacher], kind: MixtureKind) -> TeacherLogits:
    """Logits whose softmax at temperature 1 is the mixture; computed slice by slice.

    Only the running result and one teacher's logits [n, V] exist at a time, in float32 at least: one tile more than
    for a single teacher, however many there are.

    Args:
        teachers: at least one; their weights are divided by the sum.

    Raises:
        ValueError: no teacher, an unknown kind, teachers that differ in their tokens or (when the logits are asked
            for) in their ids.
    """
    if not teachers:
        raise ValueError("a mixture needs at least one teacher")
    if kind not in get_args(MixtureKind):
        raise ValueError(f"unknown mixture {kind!r}; choose one of {', '.join(get_args(MixtureKind))}")
    num_tokens = teachers[0].logits.num_tokens
    if any(teacher.logits.num_tokens != num_tokens for teacher in teachers):
        counts = [teacher.logits.num_tokens for teacher in teachers]
        raise ValueError(f"teachers of a mixture must cover the same tokens, got {counts} of them")
    total = math.fsum(teacher.weight for teacher in teachers)
    shares = [(teacher, share) for teacher in teachers if (share := teacher.weight / total) > 0]  # not underflown
    (first, first_share), *others = shares
    add = _ADDERS[kind]

    @torch.no_grad()
    def mixed(span: slice) -> Tensor:
        # No name holds a teacher's logits: they are gone before the next teacher makes its own.
        result = add(None, _fitting(first.logits(span), None), first.temperature, first_share)
        for teacher, share in others:
            result = add(result, _fitting(teacher.logits(span), result), teacher.temperature, share)
        return result

    num_tiles = max(teacher.logits.num_tiles for teacher in teachers)
    return TeacherLogits(num_tokens, mixed, num_tiles + 1)


def _add_probs(total: Tensor | None, logits: Tensor, temperature: float, share: float) -> Tensor:
    """log(exp(total) + share * P), in place of `total`."""
    result = torch.empty_like(logits) if total is None else total
    for start in range(0, len(logits), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        log_part = logits[rows] / temperature
        log_part.sub_(torch.logsumexp(log_part, dim=-1, keepdim=True) - math.log(share))
        result[rows] = log_part if total is None else torch.logaddexp(result[rows], log_part)
    return result


def _add_log_probs(total: Tensor | None, logits: Tensor, temperature: float, share: float) -> Tensor:
    """total + share * log P, in place of `total`, but for a number per row: the mixture's softmax takes that out."""
    factor = share / temperature
    return logits * factor if total is None else total.add_(logits, alpha=factor)


_ADDERS: dict[MixtureKind, Callable[[Tensor | None, Tensor, float, float], Tensor]] = {
    "arithmetic": _add_probs,
    "geometric": _add_log_probs,
}


def _fitting(logits: Tensor, total: Tensor | None) -> Tensor:
    """`logits` in float32 at least."""
    if total is not None and logits.shape != total.shape:
        raise ValueError(
            f"teachers of a mixture must cover the same ids, got logits {list(total.shape)} and {list(logits.shape)}; "
            "cut all to the number of shared real ids"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
