"""Micro-batches of trajectories as padded arrays (floor F2, numpy only; the learner makes tensors)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gkd_dist.types import Trajectory


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Whole sequences, prompt then completion, padded on the right to the longest of them."""

    input_ids: npt.NDArray[np.int64]
    """[B, T] int64."""
    attention_mask: npt.NDArray[np.bool_]
    """[B, T] bool, true at real tokens (by position: a real token may equal the padding id)."""
    prompt_lengths: npt.NDArray[np.int64]
    """[B] int64. Completion token t of row b stands at prompt_lengths[b] + t and is predicted one position before."""
    completion_lengths: npt.NDArray[np.int64]
    """[B] int64."""


@dataclass(frozen=True, slots=True)
class PairedBatch:
    """Prompts for an encoder and completions for a decoder, each padded on the right to its longest."""

    input_ids: npt.NDArray[np.int64]
    """[B, S] int64, the prompts."""
    attention_mask: npt.NDArray[np.bool_]
    """[B, S] bool, true at real tokens (by position)."""
    decoder_input_ids: npt.NDArray[np.int64]
    """[B, T] int64: the start id, then the completion without its last token."""
    predicting: npt.NDArray[np.int64]
    """[N] int64: where completion tokens are predicted, among the flattened [B * T]: row * T + t."""


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of `lengths` in groups of similar length whose padded size (rows * longest) is at most `max_tokens`.

    Longest first; a sequence longer than `max_tokens` is a group of its own. Equal arguments give equal groups.

    Args:
        lengths: tokens of each sequence, each at least 1.
        max_tokens: padded tokens per group, at least 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    if any(length < 1 for length in lengths):
        raise ValueError(f"every length must be at least 1, got {min(lengths)}")
    groups: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if room == 0:
            groups.append([])
            room = max(1, max_tokens // lengths[index])
        groups[-1].append(index)
        room -= 1
    return groups


def paired_micro_batches(shapes: Sequence[tuple[int, int]], max_tokens: int) -> list[list[int]]:
    """As `micro_batches` for rows of two parts that are padded apart: rows * (longest first + longest second).

    Args:
        shapes: tokens of prompt and completion, each at least 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    if any(min(shape) < 1 for shape in shapes):
        raise ValueError(f"every length must be at least 1, got {min(map(min, shapes))}")
    groups: list[list[int]] = []
    first = second = 0
    for index in sorted(range(len(shapes)), key=lambda i: (-shapes[i][0], -shapes[i][1], i)):
        prompt, completion = shapes[index]
        longest = max(second, completion)
        if not groups or (len(groups[-1]) + 1) * (first + longest) > max_tokens:
            groups.append([])
            first, longest = prompt, completion
        groups[-1].append(index)
        second = longest
    return groups


def pad(
    rows: Sequence[npt.NDArray[np.int32]], pad_token_id: int, *, left: bool = False
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Ids [B, T] int64 and mask [B, T] bool of `rows`, padded to the longest of them."""
    lengths = np.array([row.size for row in rows])[:, None]
    width = int(lengths.max())
    columns = np.arange(width)
    mask = columns >= width - lengths if left else columns < lengths
    ids = np.full(mask.shape, pad_token_id, dtype=np.int64)
    ids[mask] = np.concatenate(rows)
    return ids, mask


def collate(trajectories: Sequence[Trajectory], pad_token_id: int) -> PaddedBatch:
    """One padded batch of `trajectories`, in their order."""
    if not trajectories:
        raise ValueError("a batch needs at least one trajectory")
    num_tokens = max(trajectory.num_tokens for trajectory in trajectories)
    input_ids = np.full((len(trajectories), num_tokens), pad_token_id, dtype=np.int64)
    for row, trajectory in zip(input_ids, trajectories, strict=True):
        row[: trajectory.prompt_ids.size] = trajectory.prompt_ids
        row[trajectory.prompt_ids.size : trajectory.num_tokens] = trajectory.completion_ids
    prompt_lengths = np.array([trajectory.prompt_ids.size for trajectory in trajectories], dtype=np.int64)
    completion_lengths = np.array([trajectory.completion_ids.size for trajectory in trajectories], dtype=np.int64)
    attention_mask = np.arange(num_tokens) < (prompt_lengths + completion_lengths)[:, None]
    return PaddedBatch(input_ids, attention_mask, prompt_lengths, completion_lengths)


def collate_pairs(trajectories: Sequence[Trajectory], pad_token_id: int, start_id: int) -> PairedBatch:
    """One batch of `trajectories` for an encoder and a decoder, in their order."""
    if not trajectories:
        raise ValueError("a batch needs at least one trajectory")
    input_ids, attention_mask = pad([each.prompt_ids for each in trajectories], pad_token_id)
    completions, written = pad([each.completion_ids for each in trajectories], pad_token_id)
    shifted = np.concatenate([np.full((len(trajectories), 1), start_id), completions[:, :-1]], axis=1)
    return PairedBatch(input_ids, attention_mask, shifted, np.flatnonzero(written))
