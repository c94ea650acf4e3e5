"""A student of which every rank holds a part (FSDP2): parameters, gradients and optimizer are cut along their rows.

A layer is whole only while it computes. The embedding, the final norm and the head are one group, which stays whole
from the forward to the end of its backward: the loss multiplies with the head in between.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel

from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.world import RankGroup
from gkd_dist.weights.publisher import Publishable


class _Root(nn.Module):
    """Runs the body alone, but owns the head too: both have to be whole at the same time."""

    def __init__(self, student: StudentModel) -> None:
        super().__init__()
        self.model = student.model
        self._states = student.family.states

    def forward(self, **inputs: Any) -> Tensor:
        return self._states(self.model, **inputs)


@dataclass(frozen=True, eq=False)
class Gathered:
    """A parameter that becomes whole when it is read: never more than one at a time. Reading is a collective."""

    part: Tensor
    world: RankGroup

    @property
    def shape(self) -> torch.Size:
        return self.part.shape

    def detach(self) -> Tensor:
        return self.world.whole(self.part.detach())


@dataclass(frozen=True, kw_only=True)
class ShardedStudent(StudentModel):
    """Implements what `StudentModel` does on each rank; what leaves it leaves from rank 0."""

    root: FSDPModule = field(repr=False)
    world: RankGroup

    def states(self, **inputs: Any) -> Tensor:
        states: Tensor = self.root(**inputs)
        return states

    def published(self) -> list[tuple[str, Publishable]]:
        """As `StudentModel.published` on rank 0; nothing elsewhere, where the parameters are gathered along."""
        self.root.reshard()
        return self._at_first([(name, Gathered(part, self.world)) for name, part in self.model.named_parameters()])

    def gathered(self) -> dict[str, Tensor]:
        """The whole model on rank 0, in main memory; nothing elsewhere."""
        self.root.reshard()
        entries = self.model.state_dict(keep_vars=True)
        once = {id(tensor): Gathered(tensor, self.world) for tensor in entries.values()}
        whole = {key: tensor.detach().cpu() for key, tensor in self._at_first(list(once.items()))}
        return {name: whole[id(tensor)] for name, tensor in entries.items() if whole}

    def _at_first(self, tensors: Sequence[tuple[Any, Gathered]]) -> list[tuple[Any, Gathered]]:
        """Rank 0 gets what it is given, to read it in this order; the others read along and get nothing."""
        if self.world.rank == 0:
            return list(tensors)
        for _, tensor in tensors:
            tensor.detach()
        return []


def shard(student: StudentModel, world: RankGroup) -> ShardedStudent:
    """Cut a student, which is the same on every rank, into parts; its model holds parts from here on.

    Gradients are summed over ranks, not averaged: the loss has global denominators.
    """
    root = _Root(student)
    for module in (*_layers(student.model), root):
        fully_shard(module, mesh=world.mesh)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
        module.set_reduce_scatter_unused_params(True)  # ranks may use different parameters, and all have to reduce
    return ShardedStudent(student.model, student.family, student.dropout, student.adapters, root=root, world=world)


def _layers(model: PreTrainedModel) -> Iterator[nn.Module]:
    """What transformers keeps on one device, inner modules first."""
    names = set(model._no_split_modules or ())
    return (module for module in reversed(list(model.modules())) if type(module).__name__ in names)
