"""Token after token, until every row of a batch has ended; rows that have ended are left out of what follows."""

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gkd_dist.engines.reading import Reader
from gkd_dist.samplers.draw import Draw

WORTH_LEAVING_OUT = 0.75
"""Rows are taken out of the batch (and its cache, a copy of what stays) when no more than this share of it goes on."""


class Rescoring(Protocol):
    """Changes what a model says of the next token."""

    def __call__(self, rows: Tensor, scores: Tensor) -> Tensor:
        """[B, V] in the place of `scores` [B, V], for what follows `rows` [B, T]."""
        ...

    @property
    def can_leave_out(self) -> bool:
        """Whether `keep` may be called."""
        ...

    def keep(self, indices: Tensor) -> None:
        """Of the rows [B], those that go on."""
        ...


@torch.no_grad()
def write(
    reader: Reader,
    rows: Tensor,
    draw: Draw,
    rescorings: Sequence[Rescoring] = (),
    *,
    max_new_tokens: int,
    stop_token_ids: Collection[int],
) -> tuple[Tensor, Tensor]:
    """What follows `rows` [B, T], at most L = `max_new_tokens` ids for each.

    Returns:
        Ids [B, L] int64 and the log-probs [B, L] float32 they were drawn with; what stands behind a stop id means
        nothing.
    """
    num_rows, device = len(rows), rows.device
    ids = torch.zeros(num_rows, max_new_tokens, dtype=torch.long, device=device)
    log_probs = torch.zeros(num_rows, max_new_tokens, device=device)
    stops = torch.tensor(list(stop_token_ids), dtype=torch.long, device=device)
    index = torch.arange(num_rows, device=device)
    goes_on = torch.ones(num_rows, dtype=torch.bool, device=device)
    for column in range(max_new_tokens):
        scores = reader.next_logits(rows).float()
        for rescoring in rescorings:
            scores = rescoring(rows, scores)
        chosen, chosen_log_probs = draw(scores)
        ids[index, column], log_probs[index, column] = chosen, chosen_log_probs
        rows = torch.cat([rows, chosen[:, None]], dim=1)
        goes_on &= ~torch.isin(chosen, stops)
        left = int(goes_on.sum())
        if not left:
            break
        if left <= WORTH_LEAVING_OUT * len(rows) and all(each.can_leave_out for each in (reader, *rescorings)):
            kept = goes_on.nonzero().squeeze(1)
            rows, index, goes_on = rows[kept], index[kept], goes_on[kept]
            for each in (reader, draw, *rescorings):
                each.keep(kept)
    return ids, log_probs
