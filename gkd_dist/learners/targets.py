"""Teacher targets of several trajectories as one source of teacher logits."""

from collections.abc import Sequence

import numpy as np
import torch

from gkd_dist.divergences import Readout, TeacherLogits, full_teacher, hidden_teacher
from gkd_dist.errors import EngineError
from gkd_dist.types import FullTargets, HiddenTargets, ScoredTrajectory


def teacher_logits(
    scored: Sequence[ScoredTrajectory],
    readout: Readout | None,
    *,
    device: torch.device,
    compute_dtype: torch.dtype,
    num_ids: int,
) -> TeacherLogits:
    """Teacher logits of the concatenated completion tokens [N], N = sum of lengths, in the order given.

    Args:
        readout: the teacher's, on `device`; needed for hidden states.
        compute_dtype: input precision of the teacher's projection.
        num_ids: real ids; longer log-probs are cut to them (and normalised again by the loss).

    Raises:
        EngineError: targets of different kinds in one batch, unresolved handles, or no readout for hidden states.
    """
    targets = [item.targets for item in scored]
    if all(isinstance(item, HiddenTargets) for item in targets):
        if readout is None:
            raise EngineError("hidden-state targets need the teacher's readout, and this learner holds none")
        hidden = torch.cat([_tensor(item.hidden) for item in targets])
        return hidden_teacher(hidden.to(device), readout, compute_dtype=compute_dtype)
    if all(isinstance(item, FullTargets) for item in targets):
        rows = [torch.from_numpy(item.log_probs[:, :num_ids].copy()) for item in targets]
        return full_teacher(torch.cat(rows).to(device))
    kinds = sorted({type(item).__name__ for item in targets})
    raise EngineError(f"a micro-batch needs targets of one kind, got {', '.join(kinds)}")


def _tensor(hidden: np.ndarray) -> torch.Tensor:
    """[L, H] bfloat16 or float32; a copy, since decoded views are read-only."""
    tensor = torch.from_numpy(hidden.copy())
    return tensor.view(torch.bfloat16) if hidden.dtype == np.uint16 else tensor
