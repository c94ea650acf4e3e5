"""Logits from hidden states."""

import divergence_reference as reference
import numpy as np
import pytest
import torch

from gkd_dist.divergences import Readout


def _tensors(seed=0, ids=7, size=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, 3, size)), rng.normal(size=(ids, size)), rng.normal(size=ids)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
@pytest.mark.parametrize("num_ids", [None, 4])
def test_logits_match_the_formula(with_bias, scale, soft_cap, num_ids):
    hidden, weight, bias = _tensors()
    bias = bias if with_bias else None
    expected = reference.Head(weight, bias, scale, soft_cap, num_ids).logits(hidden)
    readout = Readout(torch.tensor(weight), None if bias is None else torch.tensor(bias), scale, soft_cap, num_ids)
    logits = readout.logits(torch.tensor(hidden))
    assert readout.vocabulary_size == expected.shape[-1]
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-12)


def test_padding_ids_take_no_probability():
    weight = torch.cat([torch.eye(3), torch.full((2, 3), 50.0)])
    log_probs = torch.log_softmax(Readout(weight, num_ids=3).logits(torch.tensor([1.0, 2.0, 3.0])), -1)
    torch.testing.assert_close(log_probs, torch.log_softmax(torch.tensor([1.0, 2.0, 3.0]), -1))


def test_bfloat16_gives_float32_logits_of_the_same_numbers():
    hidden, weight, _ = _tensors()
    hidden, weight = torch.tensor(hidden).bfloat16(), torch.tensor(weight).bfloat16()
    logits = Readout(weight).logits(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, hidden.float() @ weight.float().T)


def test_gradient_reaches_hidden_weight_and_bias():
    hidden, weight, bias = (torch.tensor(x, requires_grad=True) for x in _tensors())
    readout = Readout(weight, bias, logit_scale=0.5, soft_cap=2.0, num_ids=4)
    torch.autograd.gradcheck(lambda h, w, b: Readout(w, b, 0.5, 2.0, 4).logits(h), (hidden, weight, bias))
    readout.logits(hidden).sum().backward()
    assert (weight.grad[4:] == 0).all() and (weight.grad[:4] != 0).any()


def test_autocast_does_not_round_the_logits():
    hidden, weight, _ = (torch.tensor(x, dtype=torch.float32) for x in _tensors())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = Readout(weight).logits(hidden)
    assert torch.equal(logits, Readout(weight).logits(hidden))


def test_no_rows_give_no_logits():
    assert Readout(torch.ones(7, 5)).logits(torch.empty(0, 5)).shape == (0, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": torch.ones(5)}, r"\[5\]"),
        ({"weight": torch.ones(7, 5), "bias": torch.ones(6)}, r"\[6\].*\[7, 5\]"),
        ({"weight": torch.ones(7, 5), "soft_cap": 0.0}, "soft_cap"),
        ({"weight": torch.ones(7, 5), "num_ids": 8}, "1 to 7"),
        ({"weight": torch.ones(7, 5), "num_ids": 0}, "1 to 7"),
    ],
)
def test_wrong_readouts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Readout(**arguments)


def test_wrong_hidden_states_are_refused():
    readout = Readout(torch.ones(7, 5))
    with pytest.raises(ValueError, match=r"\[2, 4\].*\[7, 5\]"):
        readout.logits(torch.ones(2, 4))
    with pytest.raises(ValueError, match="float64"):
        readout.logits(torch.ones(2, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="compute_dtype"):
        readout.logits(torch.ones(2, 5), compute_dtype=torch.float16)
