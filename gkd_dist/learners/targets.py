"""Teacher targets of several trajectories as one term of the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gkd_dist.divergences import DenseTerm, Divergence, Readout, TeacherLogits, Term, full_teacher, hidden_teacher
from gkd_dist.errors import EngineError
from gkd_dist.targets import FullTargets, HiddenTargets
from gkd_dist.types import ScoredTrajectory


@dataclass(frozen=True)
class TeacherView:
    """What the learner holds of one teacher."""

    readout: Readout | None
    """On the learner's device; None unless its targets are hidden states."""
    temperature: float
    """Of the teacher's softmax in the loss; the student's is 1."""


def divergence_term(
    scored: Sequence[ScoredTrajectory],
    divergence: Divergence,
    weights: torch.Tensor,
    teachers: Mapping[str, TeacherView],
    *,
    num_ids: int,
    compute_dtype: torch.dtype,
) -> Term:
    """The divergence from the teachers at the concatenated completion tokens [N], in the order given.

    Args:
        weights: [N] float32, on the learner's device.
        teachers: by name, at least those that scored.
        num_ids: real ids; longer log-probs are cut to them (and normalised again by the loss).
        compute_dtype: input precision of the teacher's projection.

    Raises:
        EngineError: targets of different kinds in one batch, unresolved handles, an unknown teacher, or no readout for
            hidden states.
    """
    names = {score.teacher for item in scored for score in item.scores}
    if len(names) != 1 or not names <= teachers.keys():
        raise EngineError(f"a micro-batch needs the scores of one known teacher, got {', '.join(sorted(names))}")
    (teacher,) = (teachers[name] for name in names)
    logits = _logits(scored, teacher.readout, weights.device, compute_dtype, num_ids)
    return DenseTerm(logits, divergence, weights, teacher.temperature)


def _logits(
    scored: Sequence[ScoredTrajectory],
    readout: Readout | None,
    device: torch.device,
    compute_dtype: torch.dtype,
    num_ids: int,
) -> TeacherLogits:
    targets = [score.targets for item in scored for score in item.scores]
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
