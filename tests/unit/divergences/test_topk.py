"""Top-K teachers: value, gradient and bounds against the reference, and what is done with odd ids and temperatures."""

import math

import divergence_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gkd_dist.divergences import TopKTerm, make_divergence, topk_teacher
from gkd_dist.divergences.topk import log1mexp

KINDS = ["forward_kl", "reverse_kl", "jsd", "tvd", "skewed_forward_kl", "skewed_reverse_kl"]
NUMBER = 0.25
SOME = settings(max_examples=40, deadline=None, derandomize=True)
IDS = 7


def made(kind):
    return make_divergence(kind, beta=NUMBER, skew=NUMBER)


def top(p, k):
    """ids [N, k] and log-probs [N, k] of the k most probable ids of p [N, V]."""
    ids = np.argsort(-p, axis=1, kind="stable")[:, :k]
    return torch.from_numpy(ids), torch.from_numpy(np.log(np.take_along_axis(p, ids, 1)))


def evaluate(p, logits, k, kind, tail="bucket", *, owns_logits=False, weights=None):
    """(nats [N], slope [N, V], term) in float64."""
    weights = torch.ones(len(p), dtype=torch.float64) if weights is None else weights
    term = TopKTerm(topk_teacher(*top(p, k), num_ids=p.shape[1]), made(kind), weights, tail)
    result = term.chunk(torch.tensor(logits), slice(0, len(p)), wants_slope=True, owns_logits=owns_logits)
    return result.nats, result.slope, term


def random_case(seed, rows=3, ids=IDS):
    rng = np.random.default_rng(seed)
    return reference.softmax(2 * rng.normal(size=(rows, ids))), 2 * rng.normal(size=(rows, ids))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", ["bucket", "generalized"])
@pytest.mark.parametrize("k", [1, 3, 6, 7])
def test_value_and_gradient_are_those_of_the_reference(kind, tail, k):
    p, logits = random_case(1)
    weights = torch.tensor([0.5, 2.0, 0.125], dtype=torch.float64)
    nats, slope, _ = evaluate(p, logits, k, kind, tail, weights=weights)
    q = reference.softmax(logits)
    sets = top(p, k)[0].numpy()
    value, gradient = getattr(reference, f"{tail}_value"), getattr(reference, f"{tail}_gradient")
    for row in range(len(p)):
        arguments = (kind, p[row], q[row], sets[row], NUMBER)
        # Both are float64; a set that leaves a small tail loses a few digits of it in 1 - sum.
        np.testing.assert_allclose(nats[row], value(*arguments), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(slope[row], weights[row] * gradient(*arguments), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("tail", ["bucket", "generalized"])
def test_owned_logits_and_values_alone_change_nothing(tail):
    p, logits = random_case(2)
    nats, slope, term = evaluate(p, logits, 3, "jsd", tail)
    owned = evaluate(p, logits, 3, "jsd", tail, owns_logits=True)
    torch.testing.assert_close(owned[:2], (nats, slope), rtol=0, atol=0)
    kept = torch.tensor(logits)
    alone = term.chunk(kept, slice(0, 3), wants_slope=False, owns_logits=False)
    assert alone.slope is None
    torch.testing.assert_close(alone.nats, nats, rtol=0, atol=0)
    assert (kept == torch.tensor(logits)).all()
    part = term.chunk(torch.tensor(logits[1:]), slice(1, 3), wants_slope=True, owns_logits=True)
    torch.testing.assert_close((part.nats, part.slope), (nats[1:], slope[1:]), rtol=0, atol=0)


def _rows(bound):
    return hnp.arrays(np.float64, (2, IDS), elements=st.floats(-bound, bound, width=32))


@SOME
@given(_rows(8), _rows(8), st.sampled_from(KINDS))
def test_zero_then_generalized_then_bucket_then_more_ids_then_the_divergence_itself(teacher, student, kind):
    """A finer partition tells more (data processing), whatever the distributions."""
    p, q = reference.softmax(teacher), reference.softmax(student)
    whole = torch.from_numpy(np.array([reference.value(kind, *rows, NUMBER) for rows in zip(p, q, strict=True)]))
    coarser = torch.zeros(2, dtype=torch.float64)
    for k in range(1, IDS + 1):
        bucket, slope, term = evaluate(p, student, k, kind)
        generalized, slope_of_set, _ = evaluate(p, student, k, kind, "generalized")
        # Sums of eight terms up to 10 nats that nearly cancel, and a tail known to a few roundings.
        assert (generalized >= -1e-12).all()
        assert (bucket >= generalized - 1e-12).all()
        assert (bucket >= coarser - 1e-12).all()
        assert (bucket <= whole + 1e-12).all()
        for derivative in (slope, slope_of_set):
            torch.testing.assert_close(derivative.sum(1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
        expected_mass = torch.from_numpy(np.sort(p, axis=1)[:, ::-1][:, :k].sum(1))
        torch.testing.assert_close(term.measured["teacher_mass"], expected_mass, rtol=0, atol=1e-14)
        coarser = bucket
    torch.testing.assert_close(coarser, whole, rtol=1e-10, atol=1e-12)


@SOME
@given(_rows(20), st.sampled_from(KINDS), st.integers(1, IDS), st.sampled_from(["bucket", "generalized"]))
def test_zero_for_equal_distributions(logits, kind, k, tail):
    nats, slope, _ = evaluate(reference.softmax(logits), logits, k, kind, tail)
    # A tail below a few roundings of 1 is known to those alone: 8 * 2e-16, times its log-ratio.
    torch.testing.assert_close(nats, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    if kind != "tvd":  # whose gradient is the sign of a rounding error
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_a_student_far_from_the_set_has_a_finite_gradient():
    """Its tail is all it has: 1 - sum would round the set away, the log-sum-exp of the tail does not."""
    p = np.array([[0.9, 0.05, 0.03, 0.02]])
    logits = np.array([[-200.0, -300.0, 5.0, 4.0]])
    for kind in KINDS:
        nats, slope, _ = evaluate(p, logits, 2, kind)
        assert nats.isfinite().all() and slope.isfinite().all()
    nats, _, _ = evaluate(p, logits, 2, "forward_kl")
    log_q = logits[0] - np.logaddexp.reduce(logits[0])
    tail = np.logaddexp.reduce(log_q[2:])
    expected = 0.9 * (np.log(0.9) - log_q[0]) + 0.05 * (np.log(0.05) - log_q[1]) + 0.05 * (np.log(0.05) - tail)
    assert nats.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("excess", [0.0, 1e-7, 3e-6])
def test_a_set_that_sums_to_1_or_more_by_rounding_leaves_a_small_tail(excess):
    log_probs = torch.log(torch.tensor([[0.75, 0.25]])) + excess
    teacher = topk_teacher(torch.tensor([[0, 1]]), log_probs, num_ids=5)
    assert -16 < teacher.log_tail.item() < math.log(1e-6)
    total = torch.cat([teacher.log_probs, teacher.log_tail[:, None]], 1).logsumexp(1)
    assert total.item() == pytest.approx(0, abs=2e-7)
    term = TopKTerm(teacher, made("reverse_kl"), torch.ones(1))
    result = term.chunk(torch.zeros(1, 5), slice(0, 1), wants_slope=True, owns_logits=False)
    assert result.nats.isfinite().all() and result.slope.isfinite().all()


def test_a_set_of_all_ids_has_no_tail():
    teacher = topk_teacher(torch.tensor([[1, 0]]), torch.log(torch.tensor([[0.75, 0.25 + 1e-6]])), num_ids=2)
    assert teacher.log_tail.item() == -math.inf
    assert teacher.mass.item() == 1
    assert teacher.log_probs.exp().sum().item() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", ["bucket", "generalized"])
def test_ids_beyond_the_shared_ones_are_cut_and_the_rest_normalised(kind, tail):
    """The teacher's vocabulary is padded: what the loss then sees is its softmax over the real ids alone."""
    p, logits = random_case(3, ids=9)
    cut = p[:, :IDS] / p[:, :IDS].sum(1, keepdims=True)
    ids, log_probs = top(p, 5)
    assert (ids >= IDS).any(1).any() and not (ids >= IDS).all()
    teacher = topk_teacher(ids, log_probs, num_ids=IDS)
    term = TopKTerm(teacher, made(kind), torch.ones(3, dtype=torch.float64), tail)
    result = term.chunk(torch.tensor(logits[:, :IDS]), slice(0, 3), wants_slope=True, owns_logits=False)
    q = reference.softmax(logits[:, :IDS])
    for row in range(3):
        real = ids[row][ids[row] < IDS].numpy()
        # Padded ids that are not in the set stay in the bucket: the set's mass is a little too small by them.
        padding = p[row, [v for v in range(IDS, 9) if v not in ids[row]]].sum()
        kept = np.append(p[row, real], 1 - p[row, ids[row].numpy()].sum())
        kept = kept / kept.sum()
        others = np.delete(np.arange(IDS), real)
        # The same coarse distribution, spread over the real ids in any way.
        spread = np.zeros(IDS)
        spread[real], spread[others] = kept[:-1], kept[-1] / len(others)
        value = getattr(reference, f"{tail}_value")(kind, spread, q[row], real, NUMBER)
        gradient = getattr(reference, f"{tail}_gradient")(kind, spread, q[row], real, NUMBER)
        np.testing.assert_allclose(result.nats[row], value, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(result.slope[row], gradient, rtol=1e-9, atol=1e-12)
        if padding == 0:
            np.testing.assert_allclose(kept[:-1], cut[row, real], rtol=1e-10)


def test_a_row_whose_ids_are_all_cut_teaches_nothing_and_harms_nothing():
    teacher = topk_teacher(torch.tensor([[5, 6], [0, 6]]), torch.log(torch.tensor([[0.5, 0.3], [0.5, 0.3]])), num_ids=4)
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]] * 2)
    term = TopKTerm(teacher, made("forward_kl"), torch.ones(2))
    result = term.chunk(logits, slice(0, 2), wants_slope=True, owns_logits=False)
    assert result.nats[0].item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(result.slope[0], torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(teacher.mass, torch.tensor([0.0, 5 / 7]))
    assert result.nats[1] > 0.1


@pytest.mark.parametrize("temperature", [0.1, 0.5, 0.9, 1.0])
def test_a_lower_temperature_errs_by_less_than_the_bucket(temperature):
    """Against the softmax that knows the tail: total variation of set and bucket is at most 1 - mass."""
    p, _ = random_case(4, rows=50, ids=40)
    exact = p ** (1 / temperature)
    exact = exact / exact.sum(1, keepdims=True)
    for k in (2, 8, 32, 40):
        ids, log_probs = top(p, k)
        teacher = topk_teacher(ids, log_probs, num_ids=40, temperature=temperature)
        head = torch.from_numpy(np.take_along_axis(exact, ids.numpy(), 1))
        tail = torch.from_numpy(exact.sum(1)) - head.sum(1)
        error = 0.5 * (head - teacher.log_probs.exp()).abs().sum(1) + 0.5 * (tail - teacher.log_tail.exp()).abs()
        assert (error <= 1 - teacher.mass + 1e-12).all()
        assert (teacher.log_tail.exp() >= tail - 1e-12).all()
        assert k > 8 or temperature == 1 or (error > 1e-9).any()
    torch.testing.assert_close(error, torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_error_of_a_lower_temperature_is_small_where_it_is_used():
    """64 of 5000 ids of a nearly flat softmax: at the paper's 0.1 nothing is lost."""
    p = reference.softmax(np.random.default_rng(0).normal(size=(4, 5000)) * 2.5)
    ids, log_probs = top(p, 64)
    masses = {
        temperature: topk_teacher(ids, log_probs, num_ids=5000, temperature=temperature).mass.min().item()
        for temperature in (0.1, 0.5, 1.0)
    }
    assert masses[0.1] > 1 - 1e-6
    assert masses[1.0] < 0.7


def test_what_cannot_be_used_is_refused():
    ids, log_probs = torch.tensor([[0, 1]]), torch.log(torch.tensor([[0.5, 0.25]]))
    for temperature in (0.0, 1.5, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            topk_teacher(ids, log_probs, num_ids=4, temperature=temperature)
    for wrong in ([[1, 1]], [[-1, 0]]):
        with pytest.raises(ValueError, match="twice"):
            topk_teacher(torch.tensor(wrong), log_probs, num_ids=4)
    with pytest.raises(ValueError, match=r"\[1, 2\].*\[1, 1\]"):
        topk_teacher(ids, log_probs[:, :1], num_ids=4)
    with pytest.raises(ValueError, match="num_ids"):
        topk_teacher(ids, log_probs, num_ids=0)
    with pytest.raises(ValueError, match="bucket, generalized"):
        TopKTerm(topk_teacher(ids, log_probs, num_ids=4), made("tvd"), torch.ones(1), "renormalise")


def test_log1mexp_is_precise_at_both_ends():
    x = torch.tensor([-1e-12, -1e-3, -0.6, -0.7, -5.0, -50.0], dtype=torch.float64)
    expected = [math.log(-math.expm1(value)) for value in x[:3]] + [math.log1p(-math.exp(value)) for value in x[3:]]
    torch.testing.assert_close(log1mexp(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)
    assert log1mexp(torch.tensor([0.0, 1e-3])).isfinite().all()


def test_a_token_is_looked_up_in_the_set_or_in_the_bucket():
    teacher = topk_teacher(torch.tensor([[3, 0], [3, 9]]), torch.log(torch.tensor([[0.5, 0.25]] * 2)), num_ids=5)
    found = teacher.of(torch.tensor([0, 0]), teacher.log_probs, teacher.log_tail)
    torch.testing.assert_close(found.exp(), torch.tensor([0.25, 0.25 / 0.75]))
