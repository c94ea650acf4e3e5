"""Weights of tokens in the loss."""

import divergence_reference as reference
import numpy as np
import pytest
import torch

from gkd_dist.divergences import token_weights


def test_sequence_mean_is_the_mean_over_tokens_then_over_sequences():
    lengths = [1, 4, 2]
    weights = token_weights(lengths, "sequence_mean", num_sequences=3, num_tokens=7)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights.numpy(), reference.weights_of_sequence_mean(lengths), rtol=1e-6)
    per_token = np.random.default_rng(0).random(7)
    assert weights.numpy() @ per_token == pytest.approx(reference.sequence_mean_loss(per_token, lengths), rel=1e-6)


def test_token_mean_weighs_every_token_of_the_step_alike():
    weights = token_weights([1, 4, 2], "token_mean", num_sequences=6, num_tokens=20)
    np.testing.assert_allclose(weights.numpy(), np.full(7, 1 / 20), rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sequence_mean", "token_mean"])
def test_parts_of_a_step_weigh_what_they_weigh_in_the_whole(reduction):
    whole = token_weights([3, 1, 5, 2], reduction, num_sequences=4, num_tokens=11)
    parts = [token_weights(p, reduction, num_sequences=4, num_tokens=11) for p in ([3], [1, 5], [], [2])]
    assert torch.equal(torch.cat(parts), whole)
    assert whole.sum().item() == pytest.approx(1.0, rel=1e-6)


def test_denominators_smaller_than_the_batch_are_refused():
    with pytest.raises(ValueError, match="num_sequences=1"):
        token_weights([3, 1], "sequence_mean", num_sequences=1, num_tokens=4)
    with pytest.raises(ValueError, match="num_tokens=3"):
        token_weights([3, 1], "token_mean", num_sequences=2, num_tokens=3)
    with pytest.raises(ValueError, match="num_sequences=0"):
        token_weights([], "sequence_mean", num_sequences=0, num_tokens=1)


def test_empty_sequences_and_unknown_reductions_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 0\]"):
        token_weights([3, 0], "sequence_mean", num_sequences=2, num_tokens=3)
    with pytest.raises(ValueError, match="'sum'"):
        token_weights([3], "sum", num_sequences=1, num_tokens=3)
