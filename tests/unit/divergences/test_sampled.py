"""The policy-gradient form of the reverse KL; that it is unbiased is proved in tests/contract."""

import math

import pytest
import torch

from gkd_dist.divergences import Readout, SampledTerm, chunked_loss, full_teacher, hidden_teacher, importance_weights
from gkd_dist.divergences.selected import selected_log_probs

IDS = torch.tensor([2, 0, 1])
WEIGHTS = torch.tensor([0.5, 0.25, 2.0], dtype=torch.float64)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_value_is_k1_and_the_gradient_that_of_k2():
    """k2 = k1 ** 2 / 2 by autograd; k1 by autograd would not see the teacher."""
    logits, teacher = random(3, 4).requires_grad_(), -random(3, seed=1).abs()
    term = SampledTerm(IDS, teacher, WEIGHTS)
    found = term.chunk(logits.detach(), slice(0, 3), wants_slope=True, owns_logits=False)
    k1 = torch.log_softmax(logits, 1)[torch.arange(3), IDS] - teacher
    (WEIGHTS * k1**2 / 2).sum().backward()
    torch.testing.assert_close(found.nats, k1.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.slope, logits.grad, rtol=1e-12, atol=1e-14)


def test_importance_weights_scale_value_and_gradient_up_to_their_cap():
    logits, teacher = random(3, 4, seed=2), -random(3, seed=3).abs()
    log_q = torch.log_softmax(logits, 1)[torch.arange(3), IDS]
    behaviour = log_q - torch.log(torch.tensor([0.5, 1.5, 7.0], dtype=torch.float64))
    plain = SampledTerm(IDS, teacher, WEIGHTS).chunk(logits, slice(0, 3), wants_slope=True, owns_logits=False)
    weighed = SampledTerm(IDS, teacher, WEIGHTS, behaviour, 2.0).chunk(
        logits, slice(0, 3), wants_slope=True, owns_logits=False
    )
    expected = torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(importance_weights(log_q, behaviour, 2.0), expected)
    torch.testing.assert_close(weighed.nats, expected * plain.nats)
    torch.testing.assert_close(weighed.slope, expected[:, None] * plain.slope)
    # The cap keeps a ratio of e^900 finite.
    assert importance_weights(torch.zeros(1), torch.full((1,), -900.0), 2.0) == 2.0


def test_chunks_owned_logits_and_values_alone_agree():
    hidden, weight, teacher = random(3, 5), random(4, 5, seed=1), -random(3, seed=2).abs()
    term = SampledTerm(IDS, teacher, WEIGHTS, teacher - 0.1, 1.5)
    found = []
    for chunk_tokens in (1, 2, 3):
        head = weight.clone().requires_grad_()
        result = chunked_loss(hidden, Readout(head), [term], chunk_tokens=chunk_tokens)
        result.loss.backward()
        found.append((result.per_token, head.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-14)
    assert term.chunk(hidden @ weight.T, slice(0, 3), wants_slope=False, owns_logits=False).slope is None


@pytest.mark.parametrize("cap", [0.0, -1.0, math.inf, math.nan])
def test_a_cap_out_of_range_is_refused(cap):
    with pytest.raises(ValueError, match="max_importance"):
        SampledTerm(IDS, torch.zeros(3), WEIGHTS, None, cap)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\[3\], \[2\], \[3\]"):
        SampledTerm(IDS, torch.zeros(2), WEIGHTS)
    with pytest.raises(ValueError, match=r"\[1\]"):
        SampledTerm(IDS, torch.zeros(3), WEIGHTS, torch.zeros(1))


@pytest.mark.parametrize("chunk_tokens", [1, 2, 256])
def test_log_probs_of_chosen_ids_are_those_of_the_softmax(chunk_tokens):
    hidden, readout = random(5, 3), Readout(random(7, 3, seed=1).requires_grad_(), num_ids=6)
    expected = torch.log_softmax(readout.logits(hidden).detach() / 0.5, 1)
    logits = hidden_teacher(hidden, readout)
    one, many = torch.tensor([5, 0, 3, 3, 1]), torch.tensor([[0, 5]] * 5)
    for ids in (one, many):
        found = selected_log_probs(logits, ids, temperature=0.5, chunk_tokens=chunk_tokens)
        assert found.shape == ids.shape and not found.requires_grad
        wanted = expected.gather(1, ids.reshape(5, -1)).reshape(ids.shape)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(selected_log_probs(full_teacher(expected), one), expected[range(5), one])
