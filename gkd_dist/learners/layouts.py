"""How sequences lie in a forward pass: padded rows, or one packed row. The hidden states are the same."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gkd_dist.data.packing import pack, pack_trajectories
from gkd_dist.engines.families import Causal, Family
from gkd_dist.errors import ModelError
from gkd_dist.learners.model import StudentModel
from gkd_dist.types import Trajectory

logger = logging.getLogger(__name__)

_PROBE_LENGTHS = [7, 12, 5]
_TOLERANCE = 1e-4
"""Largest difference of hidden states, packed against alone, in units of the largest of them; float32."""


class Layout(Protocol):
    """Groups sequences into forward passes, and runs one."""

    def groups(self, trajectories: Sequence[Trajectory], max_tokens: int) -> list[list[int]]:
        """Indices, group by group; a forward takes at most `max_tokens` tokens, or a single sequence."""
        ...

    def completion_hidden(self, student: StudentModel, trajectories: Sequence[Trajectory], pad_token_id: int) -> Tensor:
        """[N, H] at the positions that predict completion tokens, trajectory after trajectory."""
        ...


@dataclass(frozen=True)
class PaddedLayout:
    """A row for each sequence (or two: of encoder and decoder), padded to the longest of its group."""

    family: Family = Causal()  # noqa: RUF009 - immutable

    def groups(self, trajectories: Sequence[Trajectory], max_tokens: int) -> list[list[int]]:
        return self.family.groups(trajectories, max_tokens)

    def completion_hidden(self, student: StudentModel, trajectories: Sequence[Trajectory], pad_token_id: int) -> Tensor:
        batch = self.family.lay_out(trajectories, pad_token_id, student.device)
        return student.states(**batch.inputs).flatten(0, 1).index_select(0, batch.positions)


@dataclass(frozen=True)
class PackedLayout:
    """All sequences of a group in one row without padding; none attends to another."""

    def groups(self, trajectories: Sequence[Trajectory], max_tokens: int) -> list[list[int]]:
        return pack([each.num_tokens for each in trajectories], max_tokens)

    def completion_hidden(self, student: StudentModel, trajectories: Sequence[Trajectory], pad_token_id: int) -> Tensor:
        del pad_token_id
        batch = pack_trajectories(trajectories)
        hidden = _packed_hidden(student, batch.input_ids, batch.position_ids, batch.ends)
        return hidden.index_select(0, torch.from_numpy(batch.predicting).to(student.device))


def choose_layout(student: StudentModel, packing: bool | None) -> Layout:
    """The layout asked for; None packs wherever the student keeps packed sequences apart.

    Raises:
        ModelError: packing was asked for, and would let sequences see each other.
    """
    padded = PaddedLayout(student.family)
    if packing is False or (packing is None and not student.family.in_one_row):
        return padded
    problem = packing_problem(student)
    if problem is None:
        return PackedLayout()
    if packing:
        raise ModelError(
            f"student {type(student.model).__name__} cannot be packed: {problem}; set learner.packing=false"
        )
    logger.warning("sequences are padded, not packed: %s", problem)
    return padded


@torch.no_grad()
def packing_problem(student: StudentModel) -> str | None:
    """What keeps this student from packed training, found by trying three sequences; None if nothing."""
    if not student.family.in_one_row:
        return "its prompts are in the encoder and its completions in the decoder"
    num_rows = int(student.model.get_input_embeddings().weight.shape[0])
    ids = torch.arange(1, 1 + sum(_PROBE_LENGTHS), device=student.device) % num_rows
    parts = ids.split(_PROBE_LENGTHS)
    ends = np.cumsum([0, *_PROBE_LENGTHS])
    positions = np.concatenate([np.arange(length) for length in _PROBE_LENGTHS])
    with student.evaluating():
        alone = [student.states(input_ids=part[None])[0] for part in parts]
        try:
            packed = _packed_hidden(student, ids.cpu().numpy(), positions, ends)
        except Exception as error:  # whatever a model's forward may raise: this is a probe
            return f"its forward refuses packed sequences ({error})"
    expected = torch.cat(alone)
    difference = ((packed - expected).abs().max() / expected.abs().max()).item()
    if not difference <= _TOLERANCE:
        return f"packed sequences have other hidden states than each alone, by {difference:.3g} of the largest"
    return None


def _packed_hidden(student: StudentModel, input_ids: np.ndarray, position_ids: np.ndarray, ends: np.ndarray) -> Tensor:
    """[T, H] of the packed sequences. transformers separates them where positions restart, if there is no mask."""
    row = torch.from_numpy(input_ids)[None].to(student.device)
    positions = torch.from_numpy(position_ids)[None].to(student.device)
    boundaries = torch.from_numpy(ends).to(student.device, torch.int32)
    return student.states(input_ids=row, position_ids=positions, cu_seq_lens_q=boundaries)[0]
