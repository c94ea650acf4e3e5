"""Sampling from a mixture of teacher and student, token by token (MiniLLM, arXiv 2306.08543, section 2.2)."""

import inspect
import math

import torch
from transformers import LogitsProcessor, PreTrainedModel


class TeacherMix(LogitsProcessor):
    """Turns the student's scores [B, V] into log(alpha * p + (1 - alpha) * q), over the ids both models have.

    What follows it (temperature, cuts) acts on the mixture. The teacher reads along with its own cache: one object per
    call of `generate`.

    Args:
        teacher: causal, in evaluation mode, on the student's device.
        alpha: weight of the teacher, inside (0, 1).
        attention_mask: [B, T] of the left-padded prompts.
        num_ids: real ids; the others get no probability. None: all that both models have.
    """

    def __init__(
        self, teacher: PreTrainedModel, alpha: float, attention_mask: torch.Tensor, num_ids: int | None
    ) -> None:
        self._teacher = teacher
        self._alpha = alpha
        self._mask = attention_mask
        self._num_ids = num_ids
        self._takes = inspect.signature(teacher.forward).parameters.keys()
        self._cache: object = None

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        teacher = self._read(input_ids)
        num_ids = min(teacher.shape[1], scores.shape[1], self._num_ids or scores.shape[1])
        log_p, log_q = (torch.log_softmax(rows[:, :num_ids].float(), dim=-1) for rows in (teacher, scores))
        mixed = torch.full_like(scores, -math.inf, dtype=torch.float32)
        mixed[:, :num_ids] = torch.logaddexp(log_p + math.log(self._alpha), log_q + math.log1p(-self._alpha))
        return mixed

    def _read(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The teacher's logits [B, V] for the token after `input_ids` [B, T]."""
        new = input_ids if self._cache is None else input_ids[:, -1:]
        written = input_ids.shape[1] - self._mask.shape[1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(input_ids), written)], dim=1)
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
        optional = {"position_ids": positions, "logits_to_keep": 1}
        output = self._teacher(
            input_ids=new,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in self._takes},
        )
        self._cache = output.past_key_values
        return output.logits[:, -1]
