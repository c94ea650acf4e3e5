"""Ids that are put into a text while transformers writes it, whatever the model says."""

from collections.abc import Callable, Sequence

import torch
from transformers import LogitsProcessor

NextId = Callable[[Sequence[int]], int | None]
"""Of the ids written so far, the one that has to come next; None where it is the model's own choice."""


class ForcingProcessor(LogitsProcessor):
    """Leaves one id where something else decides; for `generate` and for `samplers.writing`.

    Args:
        begins_at: column of the first generated id.
    """

    def __init__(self, next_id: NextId, begins_at: int) -> None:
        self._next_id = next_id
        self._begins_at = begins_at

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for row, generated in enumerate(input_ids[:, self._begins_at :].tolist()):
            forced = self._next_id(generated)
            if forced is not None:
                scores[row] = float("-inf")
                scores[row, forced] = 0.0
        return scores

    can_leave_out = True

    def keep(self, indices: torch.Tensor) -> None:
        """Nothing is kept here: rows are given whole."""
