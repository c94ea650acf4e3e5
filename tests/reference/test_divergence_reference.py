"""The references themselves: analytic derivatives against central differences."""

import divergence_reference as reference
import numpy as np
import pytest

KINDS = ["forward_kl", "reverse_kl", "jsd", "tvd", "skewed_forward_kl", "skewed_reverse_kl"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.1, 0.25, 0.5, 0.9])
def test_analytic_gradient_is_that_of_central_differences(kind, beta):
    rng = np.random.default_rng(3)
    p = reference.softmax(rng.normal(size=7))
    logits = rng.normal(size=7)
    numeric = reference.central_differences(lambda z: reference.value(kind, p, reference.softmax(z), beta), logits)
    analytic = reference.logit_gradient(kind, p, reference.softmax(logits), beta)
    # Central differences with step 1e-6 are good to about 1e-10 (rounding 1e-16 over the step).
    np.testing.assert_allclose(analytic, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["bucket", "generalized"])
@pytest.mark.parametrize("ids", [[4], [5, 0, 2], [6, 5, 4, 3, 2, 1, 0]])
def test_gradients_of_a_part_are_those_of_central_differences(kind, form, ids):
    rng = np.random.default_rng(5)
    p, logits, ids = reference.softmax(rng.normal(size=7)), rng.normal(size=7), np.array(ids)
    value, gradient = getattr(reference, f"{form}_value"), getattr(reference, f"{form}_gradient")
    numeric = reference.central_differences(lambda z: value(kind, p, reference.softmax(z), ids, 0.25), logits)
    analytic = gradient(kind, p, reference.softmax(logits), ids, 0.25)
    np.testing.assert_allclose(analytic, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
def test_head_gradients_are_those_of_central_differences(kind):
    rng = np.random.default_rng(4)
    hidden, weight, bias = rng.normal(size=(3, 4)), rng.normal(size=(6, 4)), rng.normal(size=6)
    p = reference.softmax(rng.normal(size=(3, 5)))

    def total(hidden, weight, bias):
        q = reference.softmax(reference.Head(weight, bias, 0.7, 2.0, 5).logits(hidden))
        return sum(reference.value(kind, a, b, 0.25) for a, b in zip(p, q, strict=True))

    head = reference.Head(weight, bias, 0.7, 2.0, 5)
    logits = head.logits(hidden)
    q = reference.softmax(logits)
    grad_logits = np.stack([reference.logit_gradient(kind, a, b, 0.25) for a, b in zip(p, q, strict=True)])
    numeric = (
        reference.central_differences(lambda x: total(x, weight, bias), hidden),
        reference.central_differences(lambda x: total(hidden, x, bias), weight),
        reference.central_differences(lambda x: total(hidden, weight, x), bias),
    )
    for analytic, expected in zip(head.backward(hidden, logits, grad_logits), numeric, strict=True):
        np.testing.assert_allclose(analytic, expected, rtol=1e-6, atol=1e-9)
