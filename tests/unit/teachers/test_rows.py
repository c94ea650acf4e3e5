"""Rows of a transformers teacher that hold log 0: every message is finite, and so is what is made of it."""

import numpy as np
import pytest
import torch

from gkd_dist.targets import LEAST_LOG_PROB
from gkd_dist.teachers.prompt_log_probs import PromptLogProbs, SampledScoring
from gkd_dist.teachers.rows import row_transport

ROWS = torch.tensor([[0.0, -torch.inf, 1.0], [0.0, 0.0, -torch.inf]])
COMPLETION = np.array([1, 2], np.int32)


@pytest.mark.parametrize("transport", ["topk", "full", "sampled"])
def test_log_0_is_finite_and_can_be_squared(transport: str) -> None:
    log_probs = row_transport(transport, num_ids=3, top_k=3).targets(ROWS, COMPLETION).log_probs
    assert log_probs.min() == LEAST_LOG_PROB
    assert np.isfinite(np.square(log_probs)).all()


def test_every_engine_says_the_same_of_an_impossible_token() -> None:
    here = row_transport("sampled", num_ids=3, top_k=None).targets(ROWS, COMPLETION)
    none = np.zeros((2, 0), np.int32)
    there = SampledScoring().targets(PromptLogProbs(np.full(2, -np.inf, np.float32), none, none.astype(np.float32)))
    np.testing.assert_array_equal(here.log_probs, there.log_probs)
