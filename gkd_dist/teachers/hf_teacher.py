"""The teacher on transformers: hidden states or full log-probs of a causal model, on any device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from gkd_dist.data.collate import collate, micro_batches
from gkd_dist.divergences import Readout, predicting_positions
from gkd_dist.serial import SerialThread
from gkd_dist.types import FullTargets, HiddenTargets, ScoredTrajectory, TeacherTargets, Trajectory

_MAX_MICRO_BATCH_TOKENS = 4096


class HfTeacher:
    """Implements `interfaces.Teacher` with the `hidden` and `full` transports; calls run one after the other.

    Args:
        model: local folder in Hugging Face format.
        name: what scored trajectories carry as their teacher.
        dtype: `float32` or `bfloat16`; hidden states are shipped in the same type, log-probs in float32.
        transport: `hidden` or `full`.
        pad_token_id: fills the shorter rows; never attended to.
        num_ids: real vocabulary; `full` log-probs are normalised over these ids alone. None means all.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str,
        dtype: str,
        transport: Literal["hidden", "full"],
        pad_token_id: int,
        num_ids: int | None = None,
    ) -> None:
        self._model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self._name = name
        self._transport = transport
        self._pad_token_id = pad_token_id
        self._num_ids = num_ids
        self._thread = SerialThread("hf-teacher")

    async def score(self, trajectories: Sequence[Trajectory]) -> list[ScoredTrajectory]:
        """Scored trajectories, in order; see `interfaces.Teacher.score`."""
        return await self._thread.run(lambda: self._score(list(trajectories)))

    async def close(self) -> None:
        self._thread.close()

    @torch.no_grad()
    def _score(self, trajectories: list[Trajectory]) -> list[ScoredTrajectory]:
        targets: dict[int, TeacherTargets] = {}
        lengths = [trajectory.num_tokens for trajectory in trajectories]
        for indices in micro_batches(lengths, _MAX_MICRO_BATCH_TOKENS):
            rows = self._rows([trajectories[index] for index in indices])
            targets.update(zip(indices, map(self._pack, rows), strict=True))
        return [
            ScoredTrajectory(trajectory, targets[index], self._name) for index, trajectory in enumerate(trajectories)
        ]

    def _rows(self, group: list[Trajectory]) -> tuple[torch.Tensor, ...]:
        """Per trajectory: hidden states [L, H], or logits [L, V], at the positions that predict its completion."""
        padded = collate(group, self._pad_token_id)
        input_ids = torch.from_numpy(padded.input_ids).to(torch.int64)
        attention_mask = torch.from_numpy(padded.attention_mask)
        hidden = self._model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]
        positions = predicting_positions(padded.prompt_lengths, padded.completion_lengths, input_ids.shape[1])
        kept = hidden.flatten(0, 1).index_select(0, positions)
        return kept.split([trajectory.num_completion_tokens for trajectory in group])

    def _pack(self, hidden: torch.Tensor) -> TeacherTargets:
        if self._transport == "hidden":
            return HiddenTargets(_array(hidden))
        head = self._model.get_output_embeddings()
        readout = Readout.of(head.weight, getattr(head, "bias", None), self._model.config, num_ids=self._num_ids)
        logits = readout.logits(hidden)
        return FullTargets(torch.log_softmax(logits, dim=-1).numpy())


def _array(hidden: torch.Tensor) -> np.ndarray:
    """[L, H] as float32, or as the bits of bfloat16."""
    if hidden.dtype == torch.bfloat16:
        return hidden.contiguous().view(torch.uint16).numpy()
    return hidden.float().contiguous().numpy()
