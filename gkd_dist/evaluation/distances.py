"""Divergences between a teacher and a student on given text, over the whole vocabulary."""

from collections.abc import Sequence

import torch

from gkd_dist.divergences import forward_kl, jsd, reverse_kl
from gkd_dist.evaluation.predictions import Distance
from gkd_dist.evaluation.writers import Progress
from gkd_dist.interfaces import Scorer
from gkd_dist.targets import FullTargets
from gkd_dist.types import Trajectory

_MAX_TOKENS = 1024
"""Completion tokens whose distributions are held at once, of two models."""
_ROWS = 64
"""Tokens compared at once, in float64."""


async def distances(
    student: Scorer, teacher: Scorer, trajectories: Sequence[Trajectory], progress: Progress
) -> list[Distance]:
    """One per trajectory, in order.

    Args:
        student, teacher: answer with `FullTargets` over the same ids.
    """
    found: list[Distance] = []
    for batch in _batches(trajectories):
        of_student, of_teacher = await student.score(batch), await teacher.score(batch)
        for own, wanted in zip(of_student, of_teacher, strict=True):
            if not isinstance(own, FullTargets) or not isinstance(wanted, FullTargets):
                raise TypeError("distances need full distributions of both models")
            found.append(_distance(wanted, own))
        progress(len(batch))
    return found


def _batches(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    batches: list[list[Trajectory]] = []
    held = 0
    for each in trajectories:
        if not batches or held + each.num_completion_tokens > _MAX_TOKENS:
            batches.append([])
            held = 0
        batches[-1].append(each)
        held += each.num_completion_tokens
    return batches


def _distance(teacher: FullTargets, student: FullTargets) -> Distance:
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, teacher.num_tokens, _ROWS):
        rows = slice(start, start + _ROWS)
        wanted, own = (torch.from_numpy(each.log_probs[rows]).double() for each in (teacher, student))
        sums += torch.stack([forward_kl(wanted, own).sum(), reverse_kl(wanted, own).sum(), jsd(wanted, own, 0.5).sum()])
    forward, reverse, both = sums.tolist()
    return Distance(forward, reverse, both, teacher.num_tokens)
