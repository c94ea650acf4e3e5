"""Micro-batches without padding: whole sequences one after the other in a single row (floor F2, numpy only)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gkd_dist.types import Trajectory


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B sequences, prompt then completion, in one row of T tokens. N is their completion tokens."""

    input_ids: npt.NDArray[np.int64]
    """[T] int64."""
    position_ids: npt.NDArray[np.int64]
    """[T] int64, from 0 within each sequence: where they restart, another sequence begins."""
    ends: npt.NDArray[np.int64]
    """[B + 1] int64: sequence b stands at ends[b] to ends[b + 1]."""
    predicting: npt.NDArray[np.int64]
    """[N] int64: where the completion tokens are predicted, sequence after sequence."""


def pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of `lengths` in groups of at most `max_tokens` tokens together.

    As few groups as first-fit decreasing finds, filled evenly where that fits. A sequence longer than
    `max_tokens` is a group of its own. Equal arguments give equal groups.

    Args:
        lengths: tokens of each sequence, each at least 1.
        max_tokens: tokens per group, at least 1.

    Raises:
        ValueError: a length or a budget below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    if any(length < 1 for length in lengths):
        raise ValueError(f"every length must be at least 1, got {min(lengths)}")
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups = _first_fit(lengths, order, max_tokens)
    even = _evenly(lengths, order, len(groups))
    return even if _fits(lengths, even, max_tokens) else groups


def pack_trajectories(trajectories: Sequence[Trajectory]) -> PackedBatch:
    """One packed batch of `trajectories`, in their order.

    Raises:
        ValueError: no trajectory, or one without a prompt, whose first token nothing would predict.
    """
    if not trajectories:
        raise ValueError("a batch needs at least one trajectory")
    if any(trajectory.prompt_ids.size < 1 for trajectory in trajectories):
        raise ValueError("every prompt needs at least one token")
    ends = np.cumsum([0, *(trajectory.num_tokens for trajectory in trajectories)], dtype=np.int64)
    rows = [part for trajectory in trajectories for part in (trajectory.prompt_ids, trajectory.completion_ids)]
    predicting = [
        start + trajectory.prompt_ids.size - 1 + np.arange(trajectory.completion_ids.size)
        for start, trajectory in zip(ends[:-1], trajectories, strict=True)
    ]
    return PackedBatch(
        input_ids=np.concatenate(rows).astype(np.int64),
        position_ids=np.concatenate([np.arange(trajectory.num_tokens) for trajectory in trajectories]),
        ends=ends,
        predicting=np.concatenate(predicting),
    )


def _first_fit(lengths: Sequence[int], order: Sequence[int], max_tokens: int) -> list[list[int]]:
    groups: list[list[int]] = []
    rooms: list[int] = []
    for index in order:
        place = next((place for place, room in enumerate(rooms) if lengths[index] <= room), len(groups))
        if place == len(groups):
            groups.append([])
            rooms.append(max_tokens)
        groups[place].append(index)
        rooms[place] -= lengths[index]
    return groups


def _evenly(lengths: Sequence[int], order: Sequence[int], num_groups: int) -> list[list[int]]:
    """Each sequence, longest first, to the group with the fewest tokens so far."""
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    loads = [0] * num_groups
    for index in order:
        place = loads.index(min(loads))
        groups[place].append(index)
        loads[place] += lengths[index]
    return groups


def _fits(lengths: Sequence[int], groups: Sequence[Sequence[int]], max_tokens: int) -> bool:
    return all(len(group) == 1 or sum(lengths[index] for index in group) <= max_tokens for group in groups)
