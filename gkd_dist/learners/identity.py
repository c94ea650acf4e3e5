"""Whose state a checkpoint is: what has to be equal for a learner to go on from it, and how to say that it is not."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from gkd_dist.learners.model import StudentModel

_MOST_LINES = 8
_FREE = frozenset({"params", "lr", "initial_lr"})
"""The learning rate may be another one: it follows the schedule of the configuration from where it is."""


def identity_of(student: StudentModel, optimizer: torch.optim.Optimizer, world_size: int) -> dict[str, Any]:
    """Student, optimizer and kind of training, by the names that a message uses."""
    lora = student.adapters and student.adapters.config
    trained = {name: tensor for name, tensor in student.named_parameters() if tensor.requires_grad}
    groups = [{key: value for key, value in group.items() if key not in _FREE} for group in optimizer.param_groups]
    return {
        "student": type(student.model).__name__,
        "lora": lora and {"r": lora.r, "lora_alpha": lora.lora_alpha, "use_rslora": lora.use_rslora},
        "learner ranks": world_size,
        "optimizer": type(optimizer).__name__,
        "optimizer settings": dict(enumerate(groups)),
        "trained parameters": {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in trained.items()},
    }


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """One line for each, a few at most; empty when both are the same.

    Args:
        theirs: of the checkpoint.
        ours: of this learner. Both as `plain` gives them.
    """
    lines = list(_compare("", theirs, ours))
    more = len(lines) - _MOST_LINES
    return lines if more <= 0 else [*lines[:_MOST_LINES], f"and {more} more"]


def plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))


def _compare(where: str, theirs: Any, ours: Any) -> list[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [*ours, *(key for key in theirs if key not in ours)]
        absent = "absent"
        return [
            line
            for key in keys
            for line in _compare(f"{where}, {key}" if where else key, theirs.get(key, absent), ours.get(key, absent))
        ]
    return [] if theirs == ours else [f"{where}: {theirs!r:.80} in the checkpoint, {ours!r:.80} here"]
