"""The teacher on transformers: every transport, of causal and encoder-decoder models."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from gkd_dist.engines.coalescing import Coalescer
from gkd_dist.engines.families import Family, family_at
from gkd_dist.engines.probes import readout_error
from gkd_dist.errors import ModelError
from gkd_dist.targets import TeacherTargets
from gkd_dist.teachers.readout import load_readout
from gkd_dist.teachers.rows import FullRows, RowTransport, row_transport
from gkd_dist.types import Trajectory

_PROBE_TOLERANCE = 1e-3
"""Largest difference allowed between a logit of the readout and the model's own."""
_MAX_TRAJECTORIES = 64
"""Scored together when they wait together; how many share a forward is the transport's token budget."""


class HfTeacher:
    """Implements `interfaces.Scorer` with every transport; requests that wait are scored together.

    Logits are those of the model's own forward, at the positions that predict completion tokens and nowhere else.
    `hidden` is refused for a model whose logits the learner would not get back from its hidden states.

    Args:
        model: local folder in Hugging Face format.
        dtype: `float32` or `bfloat16`; hidden states are shipped in the same type, log-probs in float32.
        transport: what becomes of the rows; see `teachers/rows.py`.
        pad_token_id: fills the shorter rows; never attended to.
        num_ids: real vocabulary; log-probs are normalised over these ids alone. None means all.
        top_k: K of `topk`.
        device: where the model runs. CPU; CUDA untested.

    Raises:
        ConfigError: `topk`, and K is more than there are ids.
        ModelError: `hidden`, and the readout of the folder does not give the model's own logits.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str,
        transport: Literal["hidden", "topk", "full", "sampled"],
        pad_token_id: int,
        num_ids: int | None = None,
        top_k: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._transport = row_transport(transport, num_ids=num_ids, top_k=top_k)
        self._family = family_at(model)
        self._model = _load(self._family, model, dtype, device)
        if not self._transport.from_logits:
            _check_readout(self._model, self._family, Path(model), dtype, device)
        self._pad_token_id = pad_token_id
        self._num_ids = num_ids
        self._requests: Coalescer[RowTransport, Trajectory, TeacherTargets] = Coalescer(
            "hf-teacher", self._score, max_items=_MAX_TRAJECTORIES
        )

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        """See `interfaces.Scorer.score`."""
        return await self._requests.ask(self._transport, trajectories)

    async def own_log_probs(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        """FullTargets by the model's own forward, whatever the transport is."""
        return await self._requests.ask(FullRows(self._num_ids), trajectories)

    async def ping(self) -> None:
        """See `interfaces.Sampler.ping`; the model is in this process, which answers."""
        self._requests.check()

    async def close(self) -> None:
        self._requests.close()

    @torch.no_grad()
    def _score(self, transport: RowTransport, trajectories: list[Trajectory]) -> list[TeacherTargets]:
        targets: dict[int, TeacherTargets] = {}
        for indices in self._family.groups(trajectories, transport.max_micro_batch_tokens):
            group = [trajectories[index] for index in indices]
            rows = self._rows(group, transport).split([trajectory.num_completion_tokens for trajectory in group])
            for index, trajectory, own in zip(indices, group, rows, strict=True):
                targets[index] = transport.targets(own, trajectory.completion_ids)
        return [targets[index] for index in range(len(trajectories))]

    def _rows(self, group: list[Trajectory], transport: RowTransport) -> torch.Tensor:
        """[N, H] states after the final norm, or [N, V] logits, at the positions that predict the completions."""
        batch = self._family.lay_out(group, self._pad_token_id, self._model.device)
        if not transport.from_logits:
            return _select(self._family.states(self._model, **batch.inputs), batch.positions)
        with _projecting_only(self._model, batch.positions):
            logits = self._model(**batch.inputs, use_cache=False).logits
        # A forward that uses the head's weight without calling the head has projected every position.
        return logits[0] if logits.shape[:2] == (1, batch.positions.numel()) else _select(logits, batch.positions)


class _Float32Head(nn.Module):
    """A head of lower precision whose products come out in float32: rounded logits are wrong in the second digit.

    Scale and soft cap stay the model's own and see float32 too.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, getattr(head, "bias", None)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden.float(), self.weight.float(), None if self.bias is None else self.bias.float())


def _load(family: Family, model: str | Path, dtype: str, device: str) -> PreTrainedModel:
    loaded = family.load(model, dtype=getattr(torch, dtype)).to(device).eval()
    if dtype != "float32":
        loaded.set_output_embeddings(_Float32Head(loaded.get_output_embeddings()))
    return loaded


def _check_readout(model: PreTrainedModel, family: Family, path: Path, dtype: str, device: str) -> None:
    """What the learner will hold, read from the same folder, against the model's own forward."""
    difference = readout_error(model, load_readout(path, dtype=dtype, device=device), family)
    if not difference <= _PROBE_TOLERANCE:
        raise ModelError(
            f"teacher {path} ({type(model).__name__}): its logits are not readout(hidden states), largest difference "
            f"{difference:.3g}; use teacher.transport=full"
        )


@contextmanager
def _projecting_only(model: PreTrainedModel, positions: torch.Tensor) -> Iterator[None]:
    """Inside, the LM head sees the hidden states at the flat `positions` [N] alone, as [1, N, H]."""
    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda _, inputs: (_select(inputs[0], positions)[None],))
    try:
        yield
    finally:
        handle.remove()


def _select(columns: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """[N, X] at the flat `positions` of [B, T, X]."""
    return columns.flatten(0, 1).index_select(0, positions)
