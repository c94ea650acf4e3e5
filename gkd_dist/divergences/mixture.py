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

    Only the running result and one teacher's tiles [n, V] exist at a time, in float32 at least.

    Args:
        teachers: at least one; their weights are divided by the sum.

    Raises:
        ValueError: no teacher, an unknown kind, or (of the returned function) teachers that differ in their ids.
    """
    if not teachers:
        raise ValueError("a mixture needs at least one teacher")
    if kind not in get_args(MixtureKind):
        raise ValueError(f"unknown mixture {kind!r}; choose one of {', '.join(get_args(MixtureKind))}")
    total = math.fsum(teacher.weight for teacher in teachers)
    shares = [(teacher, share) for teacher in teachers if (share := teacher.weight / total) > 0]  # not underflown
    tile_of, add_ = _OPERATIONS[kind]

    @torch.no_grad()
    def mixed(span: slice) -> Tensor:
        result: Tensor | None = None
        for teacher, share in shares:
            # No name holds the tile: it is gone before the next teacher makes its own.
            result = _added(result, tile_of(_wide(teacher.logits(span)), teacher.temperature, share), add_)
        assert result is not None
        return result

    return mixed


def _log_weighted(logits: Tensor, temperature: float, weight: float) -> Tensor:
    """log(weight * P)"""
    tile = logits / temperature
    return tile.sub_(torch.logsumexp(tile, dim=-1, keepdim=True) - math.log(weight))


def _log_added_(total: Tensor, tile: Tensor) -> Tensor:
    return torch.logaddexp(total, tile, out=total)


def _scaled(logits: Tensor, temperature: float, weight: float) -> Tensor:
    """weight * log P, but for a number per row: the mixture's own softmax takes that out."""
    return logits * (weight / temperature)


_Tile = Callable[[Tensor, float, float], Tensor]
"""(logits [n, V], temperature, weight) -> what the teacher adds [n, V], a new tensor."""
_Add = Callable[[Tensor, Tensor], Tensor]
"""Adds the second to the first, in place."""
_OPERATIONS: dict[MixtureKind, tuple[_Tile, _Add]] = {
    "arithmetic": (_log_weighted, _log_added_),
    "geometric": (_scaled, Tensor.add_),
}


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _added(total: Tensor | None, tile: Tensor, add_: _Add) -> Tensor:
    if total is None:
        return tile
    if tile.shape != total.shape:
        raise ValueError(
            f"teachers of a mixture must cover the same ids, got logits {list(total.shape)} and {list(tile.shape)}; "
            "cut all to the number of shared real ids"
        )
    return add_(total, tile)
