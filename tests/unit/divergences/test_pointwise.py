"""Pointwise divergences against the probability-space reference, and at the edges."""

import divergence_reference as reference
import numpy as np
import pytest
import torch

from gkd_dist.divergences import (
    forward_kl,
    jsd,
    make_divergence,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    tvd,
)

KINDS = ("forward_kl", "reverse_kl", "jsd", "tvd", "skewed_forward_kl", "skewed_reverse_kl")
BETAS = (0.1, 0.25, 0.5, 0.9)
CASES = [
    ("forward_kl", 0.5),
    ("reverse_kl", 0.5),
    ("tvd", 0.5),
    *((kind, beta) for kind in KINDS[2:] if kind != "tvd" for beta in BETAS),
]
# float64 on both sides and the same formulas up to rearrangement: errors are a few 1e-16 times the vocabulary.
TIGHT = {"rtol": 1e-6, "atol": 1e-13}


def _logits(seed, *shape, scale=2.0):
    return np.random.default_rng(seed).normal(size=shape) * scale


@pytest.mark.parametrize(("kind", "beta"), CASES)
@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
def test_values_and_logit_gradients_match_the_reference(kind, beta, temperature):
    teacher, student = _logits(1, 5, 11), _logits(2, 5, 11)
    z = torch.tensor(student, requires_grad=True)
    teacher_log_probs = torch.log_softmax(torch.tensor(teacher) / temperature, -1)
    nats = make_divergence(kind, beta=beta, skew=beta)(teacher_log_probs, torch.log_softmax(z, -1))
    upstream = torch.linspace(-1, 2, 5, dtype=torch.float64)
    nats.backward(upstream)

    p, q = reference.softmax(teacher, temperature), reference.softmax(student)
    values = [reference.value(kind, a, b, beta) for a, b in zip(p, q, strict=True)]
    gradients = [reference.logit_gradient(kind, a, b, beta) for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(nats.detach().numpy(), values, **TIGHT)
    np.testing.assert_allclose(z.grad.numpy(), upstream.numpy()[:, None] * np.stack(gradients), **TIGHT)


@pytest.mark.parametrize(("kind", "beta"), CASES)
def test_gradient_with_respect_to_free_log_probs_is_exact(kind, beta):
    """Also off the simplex, where nothing sums to 1 and no term may be left out as constant."""
    teacher = torch.tensor(_logits(3, 2, 4))
    student = torch.tensor(_logits(4, 2, 4), requires_grad=True)
    divergence = make_divergence(kind, beta=beta, skew=beta)
    assert torch.autograd.gradcheck(lambda s: divergence(teacher, s), (student,))


def test_jsd_follows_the_papers_beta_and_not_the_mirrored_one():
    p, q = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    # M = (0.325, 0.275, 0.4); 0.25 * KL(P||M) + 0.75 * KL(Q||M), evaluated with 40 decimal digits.
    assert jsd(p.log(), q.log(), beta=0.25).item() == pytest.approx(0.1141198253392080, rel=1e-12)
    assert jsd(p.log(), q.log(), beta=0.75).item() == pytest.approx(0.1169292737944124, rel=1e-12)


def test_the_two_kl_have_their_directions():
    p, q = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    assert forward_kl(p.log(), q.log()).item() == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2), rel=1e-5)
    assert reverse_kl(p.log(), q.log()).item() == pytest.approx(0.5 * np.log(5 / 9) + 0.5 * np.log(5), rel=1e-5)
    assert tvd(p.log(), q.log()).item() == pytest.approx(0.4, rel=1e-6)


@pytest.mark.parametrize(("kind", "limit"), [("skewed_forward_kl", forward_kl), ("skewed_reverse_kl", reverse_kl)])
def test_skewed_kl_tend_to_the_plain_ones(kind, limit):
    teacher, student = (torch.log_softmax(torch.tensor(_logits(seed, 3, 6)), -1) for seed in (5, 6))
    one, other = (teacher, student) if limit is forward_kl else (student, teacher)
    # Towards skew = 0 the derivative is -chi squared: -sum a * (a - b) / b.
    chi_squared = (one.exp() * (one - other).exp()).sum(-1) - 1
    lost = limit(teacher, student) - make_divergence(kind, skew=1e-8)(teacher, student)
    torch.testing.assert_close(lost, 1e-8 * chi_squared, rtol=1e-4, atol=1e-14)


def test_skewed_kl_follow_distillm_in_which_side_is_mixed():
    p, q = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    # M = 0.25 * P + 0.75 * Q = (0.325, 0.275, 0.4) in the forward one; (0.575, 0.225, 0.2) in the reverse one.
    forward = 0.7 * np.log(0.7 / 0.325) + 0.2 * np.log(0.2 / 0.275) + 0.1 * np.log(0.1 / 0.4)
    reverse = 0.2 * np.log(0.2 / 0.575) + 0.3 * np.log(0.3 / 0.225) + 0.5 * np.log(0.5 / 0.2)
    assert skewed_forward_kl(p.log(), q.log(), skew=0.25).item() == pytest.approx(forward, rel=1e-12)
    assert skewed_reverse_kl(p.log(), q.log(), skew=0.25).item() == pytest.approx(reverse, rel=1e-12)


@pytest.mark.parametrize("skew", [0.0, 1.0, -0.1])
def test_the_ends_of_the_skew_are_refused(skew):
    for kind in ("skewed_forward_kl", "skewed_reverse_kl"):
        with pytest.raises(ValueError, match="0 < skew < 1"):
            make_divergence(kind, skew=skew)


@pytest.mark.parametrize(("beta", "limit"), [(1e-6, forward_kl), (1 - 1e-6, reverse_kl)])
def test_normalized_jsd_tends_to_the_kl_at_its_ends(beta, limit):
    teacher = torch.log_softmax(torch.tensor(_logits(5, 3, 6)), -1)
    student = torch.log_softmax(torch.tensor(_logits(6, 3, 6)), -1).requires_grad_()
    near = make_divergence("jsd", beta=beta, normalize_jsd=True)(teacher, student)
    at = limit(teacher, student)
    (near_gradient,) = torch.autograd.grad(near.sum(), student)
    (gradient,) = torch.autograd.grad(at.sum(), student)
    # First order in the distance 1e-6 from the end; the ratios P/Q of this case reach a few hundred.
    torch.testing.assert_close(near, at, rtol=1e-3, atol=1e-4)
    tangent = student.exp().detach()
    # Gradients with respect to log-probs agree up to multiples of Q, which the softmax removes.
    torch.testing.assert_close(
        near_gradient - near_gradient.sum(-1, keepdim=True) * tangent,
        gradient - gradient.sum(-1, keepdim=True) * tangent,
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_receives_no_gradient(kind):
    teacher = torch.log_softmax(torch.tensor(_logits(7, 2, 5)), -1).requires_grad_()
    student = torch.log_softmax(torch.tensor(_logits(8, 2, 5)), -1).requires_grad_()
    make_divergence(kind)(teacher, student).sum().backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert not make_divergence(kind)(teacher, student.detach()).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_changing_the_teacher_changes_the_gradient(kind):
    student = torch.tensor(_logits(9, 6))
    gradients = []
    for seed in (10, 11):
        z = student.clone().requires_grad_()
        make_divergence(kind)(
            torch.log_softmax(torch.tensor(_logits(seed, 6)), -1), torch.log_softmax(z, -1)
        ).backward()
        gradients.append(z.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ids_without_mass_cost_nothing(kind, dtype):
    """Ids at -inf on both sides behave as if they were not there, in value and gradient."""
    inf = float("inf")
    teacher = torch.tensor([2.0, -1.0, 0.5, -inf, -inf], dtype=dtype)
    student = torch.tensor([0.3, 0.2, -0.7, -inf, -inf], dtype=dtype, requires_grad=True)
    short = student.detach()[:3].clone().requires_grad_()
    divergence = make_divergence(kind, beta=0.25)
    full_nats = divergence(torch.log_softmax(teacher, -1), torch.log_softmax(student, -1))
    short_nats = divergence(torch.log_softmax(teacher[:3], -1), torch.log_softmax(short, -1))
    full_nats.backward()
    short_nats.backward()
    torch.testing.assert_close(full_nats, short_nats)
    torch.testing.assert_close(student.grad, torch.cat([short.grad, torch.zeros(2, dtype=dtype)]))


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_without_mass_where_the_student_has_some(kind):
    p, q = np.array([0.5, 0.5, 0, 0]), np.full(4, 0.25)
    student = torch.tensor(q).log().requires_grad_()
    nats = make_divergence(kind)(torch.tensor(p).log(), student)
    nats.backward()
    expected = {
        "forward_kl": np.log(2),
        "reverse_kl": float("inf"),
        "jsd": reference.jsd(p, q, 0.5),
        "tvd": 0.5,
        "skewed_forward_kl": reference.value("skewed_forward_kl", p, q, 0.1),
        "skewed_reverse_kl": reference.value("skewed_reverse_kl", p, q, 0.1),
    }
    assert nats.item() == pytest.approx(expected[kind], rel=1e-12)
    assert not student.grad.isnan().any()


@pytest.mark.parametrize("kind", KINDS)
def test_student_without_mass_where_the_teacher_has_some(kind):
    teacher = torch.full((4,), 0.25, dtype=torch.float64).log()
    logits = torch.tensor([0.0, 0.0, -float("inf"), -float("inf")], dtype=torch.float64, requires_grad=True)
    nats = make_divergence(kind)(teacher, torch.log_softmax(logits, -1))
    nats.backward()
    p, q = np.full(4, 0.25), np.array([0.5, 0.5, 0, 0])
    expected = {
        "forward_kl": float("inf"),
        "reverse_kl": np.log(2),
        "jsd": reference.jsd(p, q, 0.5),
        "tvd": 0.5,
        "skewed_forward_kl": reference.value("skewed_forward_kl", p, q, 0.1),
        "skewed_reverse_kl": reference.value("skewed_reverse_kl", p, q, 0.1),
    }
    assert nats.item() == pytest.approx(expected[kind], rel=1e-12)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_not_hidden(kind):
    teacher = torch.tensor([float("nan"), -1.0])
    assert make_divergence(kind)(teacher, torch.tensor([-0.5, -1.0])).isnan()
    assert make_divergence(kind)(torch.tensor([-0.5, -1.0]), teacher).isnan()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_computed_in_float32_and_its_gradient_returned_in_bfloat16(kind):
    teacher = torch.log_softmax(torch.tensor(_logits(12, 3, 9)), -1).bfloat16()
    student = torch.log_softmax(torch.tensor(_logits(13, 3, 9)), -1).bfloat16().requires_grad_()
    wide = student.detach().float().requires_grad_()
    nats, wide_nats = make_divergence(kind)(teacher, student), make_divergence(kind)(teacher.float(), wide)
    nats.sum().backward()
    wide_nats.sum().backward()
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats, wide_nats, rtol=0, atol=0)
    torch.testing.assert_close(student.grad, wide.grad.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_far_apart_distributions_stay_finite_in_float32(kind):
    teacher = torch.log_softmax(torch.tensor([80.0, -80.0, 0.0]), -1)
    logits = torch.tensor([-80.0, 80.0, 0.0], requires_grad=True)
    nats = make_divergence(kind)(teacher, torch.log_softmax(logits, -1))
    nats.backward()
    skewed = -np.log(0.1)
    expected = {"forward_kl": 160.0, "reverse_kl": 160.0, "jsd": np.log(2), "tvd": 1.0}
    expected |= {"skewed_forward_kl": skewed, "skewed_reverse_kl": skewed}
    assert nats.item() == pytest.approx(expected[kind], rel=1e-5)
    assert logits.grad.isfinite().all()


def test_any_leading_shape_and_unequal_arguments():
    teacher, student = torch.tensor(_logits(14, 2, 3, 4)), torch.tensor(_logits(15, 2, 3, 4))
    assert jsd(teacher, student, 0.3).shape == (2, 3)
    assert jsd(teacher[0, 0], student[0, 0], 0.3).shape == ()
    torch.testing.assert_close(jsd(teacher, student, 0.3)[1, 2], jsd(teacher[1, 2], student[1, 2], 0.3))


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, jsd, tvd])
def test_wrong_shapes_are_named(divergence):
    with pytest.raises(ValueError, match=r"\[2, 5\] and \[2, 4\]"):
        divergence(torch.zeros(2, 5), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"\[4\] and \[2, 4\]"):
        divergence(torch.zeros(4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"\[\] and \[\]"):
        divergence(torch.tensor(0.0), torch.tensor(0.0))
    with pytest.raises(ValueError, match="floating"):
        divergence(torch.zeros(3, dtype=torch.int64), torch.zeros(3))


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_ends_of_beta_are_refused_with_the_names_to_use(beta):
    with pytest.raises(ValueError, match=r"forward_kl.*reverse_kl"):
        jsd(torch.zeros(3), torch.zeros(3), beta)
