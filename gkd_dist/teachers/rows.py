"""What becomes of a transformers teacher's rows, one class per transport. L is the length of one completion."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from gkd_dist.targets import FullTargets, HiddenTargets, SampledTargets, TeacherTargets, TopKTargets
from gkd_dist.teachers.prompt_log_probs import check_top_k

_LEAST_LOG_PROB = float(np.finfo(np.float32).min)
"""Stands for log 0, which no message may carry."""


class RowTransport(Protocol):
    """Turns the rows that predict one completion into targets."""

    from_logits: bool
    """Whether rows are logits [L, V], or hidden states [L, H] after the final norm."""
    max_micro_batch_tokens: int
    """Padded tokens per forward; the logits of 1024 tokens are 0.6 GB at a vocabulary of 152 000."""

    def targets(self, rows: torch.Tensor, completion_ids: npt.NDArray[np.int32]) -> TeacherTargets: ...


class HiddenRows:
    """Hidden states as they are, float32 or the bits of bfloat16."""

    from_logits = False
    max_micro_batch_tokens = 4096

    def targets(self, rows: torch.Tensor, completion_ids: npt.NDArray[np.int32]) -> HiddenTargets:  # noqa: ARG002
        if rows.dtype == torch.bfloat16:
            return HiddenTargets(rows.contiguous().cpu().view(torch.uint16).numpy())
        return HiddenTargets(rows.float().contiguous().cpu().numpy())


class FullRows:
    """Log-probs of every id, normalised over the first `num_ids` (None: all)."""

    from_logits = True
    max_micro_batch_tokens = 1024

    def __init__(self, num_ids: int | None) -> None:
        self._num_ids = num_ids

    def targets(self, rows: torch.Tensor, completion_ids: npt.NDArray[np.int32]) -> FullTargets:  # noqa: ARG002
        return FullTargets(_array(torch.log_softmax(rows[:, : self._num_ids].float(), dim=-1)))


class TopKRows:
    """The K most probable of the first `num_ids` ids, most probable first, normalised over all of these.

    Raises:
        ConfigError: there are fewer ids than K.
    """

    from_logits = True
    max_micro_batch_tokens = 1024

    def __init__(self, top_k: int, num_ids: int | None) -> None:
        if num_ids is not None:
            check_top_k(top_k, num_ids)
        self._top_k = top_k
        self._num_ids = num_ids

    def targets(self, rows: torch.Tensor, completion_ids: npt.NDArray[np.int32]) -> TopKTargets:  # noqa: ARG002
        logits = rows[:, : self._num_ids].float()
        top = torch.topk(logits, self._top_k, dim=-1, sorted=True)
        log_probs = top.values - torch.logsumexp(logits, dim=-1, keepdim=True)
        return TopKTargets(top.indices.to(torch.int32).cpu().numpy(), _array(log_probs))


class SampledRows:
    """The log-prob of each completion token, normalised over the first `num_ids` (None: all)."""

    from_logits = True
    max_micro_batch_tokens = 1024

    def __init__(self, num_ids: int | None) -> None:
        self._num_ids = num_ids

    def targets(self, rows: torch.Tensor, completion_ids: npt.NDArray[np.int32]) -> SampledTargets:
        logits = rows[:, : self._num_ids].float()
        chosen = torch.from_numpy(completion_ids.astype(np.int64)).to(logits.device)[:, None]
        return SampledTargets(_array((logits.gather(-1, chosen) - torch.logsumexp(logits, dim=-1, keepdim=True))[:, 0]))


def row_transport(name: str, *, num_ids: int | None, top_k: int | None) -> RowTransport:
    """The transport of that name. `top_k` is needed by `topk` alone."""
    if name == "topk":
        if top_k is None:
            raise ValueError("the topk transport needs top_k")
        return TopKRows(top_k, num_ids)
    if name == "hidden":
        return HiddenRows()
    return {"full": FullRows, "sampled": SampledRows}[name](num_ids)


def _array(log_probs: torch.Tensor) -> npt.NDArray[np.float32]:
    """Finite and at most 0: rounding may lift a certain token's by 1e-7."""
    return log_probs.clamp(min=_LEAST_LOG_PROB, max=0.0).cpu().numpy()
