"""The teacher on transformers: hidden states or full log-probs of a causal model."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from gkd_dist.data.collate import PaddedBatch, collate, micro_batches
from gkd_dist.divergences import predicting_positions
from gkd_dist.divergences.readout import readout_error
from gkd_dist.errors import ModelError
from gkd_dist.serial import SerialThread
from gkd_dist.targets import FullTargets, HiddenTargets, TeacherTargets
from gkd_dist.teachers.readout import load_readout
from gkd_dist.types import Trajectory

_MAX_MICRO_BATCH_TOKENS = {"hidden": 4096, "full": 1024}
"""Padded tokens per forward; the logits of 1024 tokens are 0.6 GB at a vocabulary of 152 000."""

_PROBE_TOLERANCE = 1e-3
"""Largest difference allowed between a logit of the readout and the model's own."""


class HfTeacher:
    """Implements `interfaces.Teacher` with the `hidden` and `full` transports; calls run one after the other.

    `full` sends what the model's own forward says. `hidden` is refused for a model whose logits the learner would not
    get back from its hidden states.

    Args:
        model: local folder in Hugging Face format.
        dtype: `float32` or `bfloat16`; hidden states are shipped in the same type, log-probs in float32.
        transport: `hidden` or `full`.
        pad_token_id: fills the shorter rows; never attended to.
        num_ids: real vocabulary; `full` log-probs are normalised over these ids alone. None means all.
        device: where the model runs. CPU; CUDA untested.

    Raises:
        ModelError: `hidden`, and the readout of the folder does not give the model's own logits.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str,
        transport: Literal["hidden", "full"],
        pad_token_id: int,
        num_ids: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._model = _load(model, dtype, device)
        if transport == "hidden":
            _check_readout(self._model, Path(model), dtype, device)
        self._transport = transport
        self._pad_token_id = pad_token_id
        self._num_ids = num_ids
        self._thread = SerialThread("hf-teacher")

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        """See `interfaces.Teacher.score`."""
        return await self._thread.run(lambda: self._score(list(trajectories), self._transport, self._num_ids))

    async def own_log_probs(self, trajectories: Sequence[Trajectory]) -> list[FullTargets]:
        """What the `full` transport says, whatever the transport is."""
        return await self._thread.run(lambda: self._score(list(trajectories), "full", self._num_ids))

    async def close(self) -> None:
        self._thread.close()

    @torch.no_grad()
    def _score(self, trajectories: list[Trajectory], transport: str, num_ids: int | None) -> list[Any]:
        targets: dict[int, TeacherTargets] = {}
        lengths = [trajectory.num_tokens for trajectory in trajectories]
        for indices in micro_batches(lengths, _MAX_MICRO_BATCH_TOKENS[transport]):
            rows = self._rows([trajectories[index] for index in indices], transport)
            packed = map(HiddenTargets, map(_array, rows)) if transport == "hidden" else _full(rows, num_ids)
            targets.update(zip(indices, packed, strict=True))
        return [targets[index] for index in range(len(trajectories))]

    def _rows(self, group: list[Trajectory], transport: str) -> tuple[torch.Tensor, ...]:
        """Per trajectory: hidden states [L, H], or logits [L, V], at the positions that predict its completion."""
        padded = collate(group, self._pad_token_id)
        input_ids = torch.from_numpy(padded.input_ids).to(self._model.device, torch.int64)
        attention_mask = torch.from_numpy(padded.attention_mask).to(self._model.device)
        columns = self._hidden if transport == "hidden" else self._logits
        kept = columns(input_ids, attention_mask, int(padded.prompt_lengths.min()) - 1)
        return _select(kept, padded).split([trajectory.num_completion_tokens for trajectory in group])

    def _hidden(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, first: int) -> torch.Tensor:
        """[B, T - first, H] after the final norm."""
        output = self._model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return output.last_hidden_state[:, first:]

    def _logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, first: int) -> torch.Tensor:
        """[B, T - first, V] by the model's own forward, which is spared the earlier columns where it lets us."""
        num_columns = input_ids.shape[1] - first
        spared = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        output = self._model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=False,
            **({"logits_to_keep": num_columns} if spared else {}),
        )
        return output.logits[:, -num_columns:]


class _Float32Head(nn.Module):
    """A head of lower precision whose products come out in float32: rounded logits are wrong in the second digit.

    Scale and soft cap stay the model's own and see float32 too.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, getattr(head, "bias", None)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden.float(), self.weight.float(), None if self.bias is None else self.bias.float())


def _load(model: str | Path, dtype: str, device: str) -> PreTrainedModel:
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()
    if dtype != "float32":
        loaded.set_output_embeddings(_Float32Head(loaded.get_output_embeddings()))
    return loaded


def _check_readout(model: PreTrainedModel, path: Path, dtype: str, device: str) -> None:
    """What the learner will hold, read from the same folder, against the model's own forward."""
    difference = readout_error(model, load_readout(path, dtype=dtype, device=device))
    if not difference <= _PROBE_TOLERANCE:
        raise ModelError(
            f"teacher {path} ({type(model).__name__}): its logits are not readout(hidden states), largest difference "
            f"{difference:.3g}; use teacher.transport=full"
        )


def _select(columns: torch.Tensor, padded: PaddedBatch) -> torch.Tensor:
    """[N, X] at the predicting positions, of the last columns [B, C, X] of the batch."""
    skipped = padded.input_ids.shape[1] - columns.shape[1]
    positions = predicting_positions(padded.prompt_lengths - skipped, padded.completion_lengths, columns.shape[1])
    return columns.flatten(0, 1).index_select(0, positions.to(columns.device))


def _full(rows: Iterable[torch.Tensor], num_ids: int | None) -> Iterator[FullTargets]:
    """Per [L, V] of logits: log-probs over the first `num_ids` ids."""
    for logits in rows:
        yield FullTargets(torch.log_softmax(logits[:, :num_ids].float(), dim=-1).cpu().numpy())


def _array(hidden: torch.Tensor) -> np.ndarray:
    """[L, H] as float32, or as the bits of bfloat16."""
    if hidden.dtype == torch.bfloat16:
        return hidden.contiguous().cpu().view(torch.uint16).numpy()
    return hidden.float().contiguous().cpu().numpy()
