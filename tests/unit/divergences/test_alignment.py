"""Positions that predict the completion."""

import numpy as np
import pytest
import torch

from gkd_dist.divergences import predicting_positions


def test_positions_stand_one_before_the_tokens_they_predict():
    tokens = np.full((3, 6), -1)
    prompts, completions = [1, 3, 2], [4, 0, 4]
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        tokens[row, :prompt] = 0
        tokens[row, prompt : prompt + completion] = 100 * row + 1 + np.arange(completion)
    positions = predicting_positions(prompts, completions, width=6)
    assert positions.dtype == torch.int64
    assert positions.tolist() == [0, 1, 2, 3, 13, 14, 15, 16]
    assert tokens.reshape(-1)[positions.numpy() + 1].tolist() == [1, 2, 3, 4, 201, 202, 203, 204]


def test_a_one_token_completion_is_predicted_by_the_last_prompt_token():
    assert predicting_positions([5], [1], width=8).tolist() == [4]


def test_no_rows_give_no_positions():
    positions = predicting_positions([], [], width=8)
    assert positions.shape == (0,) and positions.dtype == torch.int64


@pytest.mark.parametrize(
    ("prompts", "completions", "message"),
    [
        ([1, 2], [1], "2 prompt lengths but 1"),
        ([1, 0], [1, 1], "row 1 needs at least one prompt token"),
        ([1], [-1], "negative"),
        ([3], [3], r"3 \+ 3 tokens, more than the width 5"),
    ],
)
def test_impossible_lengths_are_refused(prompts, completions, message):
    with pytest.raises(ValueError, match=message):
        predicting_positions(prompts, completions, width=5)
