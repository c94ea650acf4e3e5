"""Rows that have ended are left out of the batch, and the others do not notice."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gkd_dist.engines.families import family_at
from gkd_dist.samplers.gumbel import GumbelDraw
from gkd_dist.samplers.writing import write
from gkd_dist.types import SamplingParams
from tests import tiny

NUM_ROWS = 12
LENGTH = 16


class Counting:
    """A reader that notes how many rows it is asked for."""

    def __init__(self, reader: object) -> None:
        self._reader = reader
        self.asked: list[int] = []

    def next_logits(self, rows: Tensor) -> Tensor:
        self.asked.append(len(rows))
        return self._reader.next_logits(rows)  # type: ignore[attr-defined, no-any-return]

    def keep(self, indices: Tensor) -> None:
        self._reader.keep(indices)  # type: ignore[attr-defined]


@pytest.fixture(params=[tiny.save_t5, tiny.save_causal], ids=["t5", "llama"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save: Callable[[Path], Path] = request.param
    return save(tmp_path)


def written(path: Path, model: PreTrainedModel, stops: list[int]) -> tuple[Tensor, Tensor, list[int]]:
    family = family_at(path)
    rows = [np.arange(3, 4 + length % 5, dtype=np.int32) for length in range(NUM_ROWS)]
    input_ids, mask = family.prompts(rows, tiny.PAD)
    reader = Counting(family.reader(model, input_ids, mask))
    draw = GumbelDraw(SamplingParams(max_new_tokens=LENGTH), list(range(NUM_ROWS)))
    begin = family.beginning(input_ids)
    ids, log_probs = write(reader, begin, draw, max_new_tokens=LENGTH, stop_token_ids=stops)
    return ids, log_probs, reader.asked


def test_rows_end_alone_and_the_others_go_on_as_if_none_had(model: Path) -> None:
    student = family_at(model).load(model, dtype=torch.float64).eval()
    endless, endless_log_probs, asked = written(model, student, [])
    assert asked == [NUM_ROWS] * LENGTH
    stops = sorted(set(endless[:, ::3].flatten().tolist()))[::3]
    ids, log_probs, asked = written(model, student, stops)
    assert asked[-1] < NUM_ROWS  # rows were left out
    assert asked == sorted(asked, reverse=True)
    lengths = []
    for row in range(NUM_ROWS):
        ends = np.flatnonzero(np.isin(endless[row], stops))
        lengths.append(int(ends[0]) + 1 if ends.size else LENGTH)
        assert torch.equal(ids[row, : lengths[-1]], endless[row, : lengths[-1]])
        torch.testing.assert_close(log_probs[row, : lengths[-1]], endless_log_probs[row, : lengths[-1]])
    assert len(asked) == max(lengths)
    assert len(set(lengths)) > 2
