"""Sampling from a mixture of teacher and student, token by token (MiniLLM, arXiv 2306.08543, section 2.2)."""

import math

import torch

from gkd_dist.engines.reading import Reader


class TeacherMix:
    """Turns the student's scores [B, V] into log(alpha * p + (1 - alpha) * q), over the ids both models have.

    What follows it (temperature, cuts) acts on the mixture. The teacher reads along with its own cache: one object per
    batch. Implements `writing.Rescoring`.

    Args:
        teacher: reads the same batch, in evaluation mode, on the student's device.
        alpha: weight of the teacher, inside (0, 1).
        num_ids: real ids; the others get no probability. None: all that both models have.
    """

    def __init__(self, teacher: Reader, alpha: float, num_ids: int | None) -> None:
        self._teacher = teacher
        self._alpha = alpha
        self._num_ids = num_ids

    @torch.no_grad()
    def __call__(self, rows: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        teacher = self._teacher.next_logits(rows)
        num_ids = min(teacher.shape[1], scores.shape[1], self._num_ids or scores.shape[1])
        log_p, log_q = (torch.log_softmax(logits[:, :num_ids].float(), dim=-1) for logits in (teacher, scores))
        mixed = torch.full_like(scores, -math.inf, dtype=torch.float32)
        mixed[:, :num_ids] = torch.logaddexp(log_p + math.log(self._alpha), log_q + math.log1p(-self._alpha))
        return mixed

    @property
    def can_leave_out(self) -> bool:
        return self._teacher.can_leave_out

    def keep(self, indices: torch.Tensor) -> None:
        self._teacher.keep(indices)
