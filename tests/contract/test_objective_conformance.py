"""Every divergence over every teacher transport, each against the dense float64 reference with its stated bound.

`rounding`   the divergence and its gradient, to float32.
`partition`  those of the coarser distributions over K ids and a bucket, to float32: at most the divergence itself,
             equal to it with K = V; the teacher's mass in the set is reported.
`unbiased`   the divergence and its gradient in expectation over tokens drawn from the student.
`sequences`  the gradient of the KL of whole completions in expectation over completions drawn from the student (under
             `topk`, of the sum over prefixes of the KL of the coarser distributions).
"""

from dataclasses import replace
from typing import get_args

import divergence_reference as reference
import numpy as np
import pytest
import sequence_reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_cases import NUMBER, Tokens, random_tokens, scored

from gkd_dist.config.load import load_run_config
from gkd_dist.config.models import TeacherConfig
from gkd_dist.config.objective import ObjectiveConfig
from gkd_dist.divergences import Measuring, ReverseKl
from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.learners.targets import measurable

TRANSPORTS = get_args(TeacherConfig.model_fields["transport"].annotation)
POINTWISE = ("forward_kl", "reverse_kl", "jsd", "tvd", "skewed_forward_kl", "skewed_reverse_kl")

BOUNDS = {
    **{(kind, transport): "rounding" for kind in POINTWISE for transport in ("hidden", "full")},
    **{(kind, "topk"): "partition" for kind in POINTWISE},
    ("reverse_kl", "sampled"): "unbiased",
    **{("sequence_reverse_kl", transport): "sequences" for transport in TRANSPORTS},
}
REFUSED = {(kind, "sampled"): "log-prob of one token" for kind in POINTWISE if kind != "reverse_kl"}


def pairs(bound):
    return [pair for pair, stated in BOUNDS.items() if stated == bound]


def assert_close(actual, expected, tolerance=1e-5):
    """Within `tolerance` of the largest entry: float32 (6e-8) through a dozen operations on logits up to about 10."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def expected_of(tokens, weights, value, gradient):
    """(nats [N], d hidden, d head) from a reference's value(p, q, n) and gradient(p, q, n) at token n."""
    p, q = tokens.p, tokens.q
    nats = np.array([value(p[n], q[n], n) for n in range(len(p))])
    slope = weights[:, None] * np.stack([gradient(p[n], q[n], n) for n in range(len(p))])
    return nats, slope @ tokens.head.astype(np.float64), slope.T @ tokens.hidden.astype(np.float64)


def test_every_pair_has_a_bound_or_a_refusal():
    kinds = set(get_args(ObjectiveConfig.model_fields["divergence"].annotation)) - {"nll"}  # asks no teacher
    assert BOUNDS.keys() | REFUSED.keys() == {(kind, transport) for kind in kinds for transport in TRANSPORTS}
    assert not BOUNDS.keys() & REFUSED.keys()


@pytest.mark.parametrize(("kind", "transport"), pairs("rounding"))
def test_rounding(kind, transport):
    tokens, weights = random_tokens(1), np.linspace(0.1, 0.3, 9)
    result, *gradients = tokens.loss(tokens.objective(kind, transport), tokens.scored(transport), weights)
    nats, *expected = expected_of(
        tokens,
        weights,
        lambda p, q, n: reference.value(kind, p, q, NUMBER),
        lambda p, q, n: reference.logit_gradient(kind, p, q, NUMBER),
    )
    assert_close(result.per_token.numpy(), nats)
    assert result.loss.item() == pytest.approx(weights @ nats, rel=1e-5)
    for ours, wanted in zip(gradients, expected, strict=True):
        assert_close(ours, wanted)


@pytest.mark.parametrize(("kind", "transport"), pairs("partition"))
@pytest.mark.parametrize("tail", ["bucket", "generalized"])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_partition(kind, transport, tail, k):
    tokens, weights = random_tokens(2), np.linspace(0.1, 0.3, 9)
    objective = tokens.objective(kind, transport, tail=tail)
    result, *gradients = tokens.loss(objective, tokens.scored(transport, k), weights)
    sets, dense = tokens.sets(k), [reference.value(kind, p, q, NUMBER) for p, q in zip(tokens.p, tokens.q, strict=True)]
    value, gradient = getattr(reference, f"{tail}_value"), getattr(reference, f"{tail}_gradient")
    nats, *expected = expected_of(
        tokens,
        weights,
        lambda p, q, n: value(kind, p, q, sets[n], NUMBER),
        lambda p, q, n: gradient(kind, p, q, sets[n], NUMBER),
    )
    assert_close(result.per_token.numpy(), nats)
    for ours, wanted in zip(gradients, expected, strict=True):
        assert_close(ours, wanted)
    assert (result.per_token.numpy() <= np.array(dense) + 1e-5).all()
    if k == 9:
        assert_close(result.per_token.numpy(), dense)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.sampled_from(pairs("partition")), st.integers(1, 9), st.floats(0.1, 4))
def test_a_partition_never_exceeds_the_divergence_and_reports_its_mass(seed, pair, k, spread):
    kind, transport = pair
    tokens = random_tokens(seed)
    tokens = replace(tokens, hidden=np.float32(spread) * tokens.hidden)
    items = tokens.scored(transport, k)
    result, _, _ = tokens.loss(tokens.objective(kind, transport), items, np.ones(9))
    dense = np.array([reference.value(kind, p, q, NUMBER) for p, q in zip(tokens.p, tokens.q, strict=True)])
    # Log-probs of up to 60 nats in float32.
    assert (result.per_token.numpy() <= dense + 2e-5).all()
    assert (result.per_token.numpy() >= -2e-5).all()
    (term,) = terms_of(tokens, kind, transport, items)
    assert isinstance(term, Measuring)
    mass = np.take_along_axis(tokens.p, tokens.sets(k), 1).sum(1)
    np.testing.assert_allclose(term.measured["teacher_mass"], mass, rtol=0, atol=2e-6)


def terms_of(tokens, kind, transport, items):
    from gkd_dist.divergences import Readout
    from gkd_dist.learners.objective import MicroBatch

    hidden, readout = torch.from_numpy(tokens.hidden), Readout(torch.from_numpy(tokens.head))
    batch = MicroBatch(items, hidden, readout, torch.ones(len(tokens.ids)), len(items), None)
    return tokens.objective(kind, transport).terms(batch)


def one_position(seed, ids):
    """The same position for each of `ids`: what one token is, is all that differs."""
    tokens = random_tokens(seed, lengths=(1,))
    repeat = {name: np.repeat(getattr(tokens, name), len(ids), axis=0) for name in ("hidden", "teacher_hidden")}
    return replace(tokens, ids=np.asarray(ids), lengths=[len(ids)], **repeat)


@pytest.mark.parametrize(("kind", "transport"), pairs("unbiased"))
def test_unbiased_over_all_tokens(kind, transport):
    """The expectation by enumeration: each of the V ids, weighed by the student's probability of it."""
    tokens = one_position(3, range(9))
    p, q = tokens.p[0], tokens.q[0]
    result, d_hidden, d_head = tokens.loss(tokens.objective(kind, transport), tokens.scored(transport), q)
    gradient = reference.logit_gradient(kind, p, q, NUMBER)
    assert result.loss.item() == pytest.approx(reference.value(kind, p, q, NUMBER), rel=1e-5)
    assert_close(d_hidden.sum(0), gradient @ tokens.head.astype(np.float64))
    assert_close(d_head, np.outer(gradient, tokens.hidden[0]))


@pytest.mark.parametrize(("kind", "transport"), pairs("unbiased"))
def test_unbiased_over_all_tokens_of_another_policy(kind, transport):
    """Importance weights below their cap: weighed by the behaviour's probability, the expectation is the same."""
    tokens = one_position(4, range(9))
    p, q = tokens.p[0], tokens.q[0]
    behaviour = 0.7 * q + 0.3 * p
    (item,) = tokens.scored(transport)
    items = [scored(tokens.ids, item.scores[0].targets, behaviour=np.log(behaviour))]
    objective = tokens.objective(kind, transport, off_policy=True, max_importance=2.0)
    result, d_hidden, _ = tokens.loss(objective, items, behaviour)
    gradient = reference.logit_gradient(kind, p, q, NUMBER)
    assert result.loss.item() == pytest.approx(reference.value(kind, p, q, NUMBER), rel=1e-5)
    assert_close(d_hidden.sum(0), gradient @ tokens.head.astype(np.float64))
    without, _, _ = tokens.loss(tokens.objective(kind, transport), items, behaviour)
    assert abs(without.loss.item() - result.loss.item()) > 0.01


@pytest.mark.parametrize(("kind", "transport"), pairs("unbiased"))
def test_unbiased_within_monte_carlo_error(kind, transport):
    """Within 6 standard errors of 20 000 draws, in the value and in the derivative at every logit."""
    q = one_position(5, [0]).q[0]
    draws = np.random.default_rng(0).choice(9, size=20_000, p=q / q.sum())
    tokens = one_position(5, draws)
    p = tokens.p[0]
    (term,) = terms_of(tokens, kind, transport, tokens.scored(transport))
    logits = torch.from_numpy(tokens.hidden @ tokens.head.T)
    chunk = term.chunk(logits, slice(0, len(draws)), wants_slope=True, owns_logits=False)
    for samples, exact in (
        (chunk.nats.double().numpy()[:, None], [reference.value(kind, p, q, NUMBER)]),
        (chunk.slope.double().numpy(), reference.logit_gradient(kind, p, q, NUMBER)),
    ):
        error = samples.std(0, ddof=1) / np.sqrt(len(samples))
        assert (np.abs(samples.mean(0) - exact) <= 6 * error).all()
        assert (error < 0.02).all()


class Completions:
    """All completions of up to 3 tokens over 3 ids: a student and a teacher by table, as one batch."""

    LENGTH, IDS = 3, 3

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.rows = sequence_reference.prefixes(self.IDS, self.LENGTH)
        self.teacher, self.student = (rng.normal(size=(len(self.rows), self.IDS)).astype(np.float32) for _ in range(2))
        self.all = sequence_reference.completions(self.IDS, self.LENGTH)
        visited = [sequence_reference.rows_of(completion, self.rows) for completion in self.all]
        states = np.eye(len(self.rows), dtype=np.float32)[np.concatenate(visited)]
        self.tokens = Tokens(
            states, self.student.T.copy(), states, self.teacher.T.copy(), np.concatenate(self.all),
            [len(completion) for completion in self.all],
        )  # fmt: skip

    def expected_gradient(self, transport):
        """[S, V] of the objective with respect to the student's table, by central differences."""
        p, sets = reference.softmax(self.teacher), np.argsort(-self.teacher, axis=1, kind="stable")[:, :1]

        def objective(table):
            if transport != "topk":
                return sequence_reference.sequence_reverse_kl(self.teacher, table, self.LENGTH)
            return sequence_reference.summed_token_divergences(
                table, self.LENGTH, lambda row, q: reference.bucket_value("reverse_kl", p[row], q, sets[row], 0)
            )

        return reference.central_differences(objective, self.student.astype(np.float64))

    def our_gradient(self, transport, **changes):
        """[S, V] in expectation: every completion weighed by its probability under the student."""
        q = reference.softmax(self.student)
        chance = [sequence_reference.probability(completion, q, self.rows) for completion in self.all]
        weights = np.repeat(chance, self.tokens.lengths)
        objective = replace(self.tokens.objective("sequence_reverse_kl", transport), **changes)
        _, _, d_head = self.tokens.loss(objective, self.tokens.scored(transport, k=1), weights)
        return d_head.T


@pytest.mark.parametrize(("kind", "transport"), pairs("sequences"))
def test_sequences(kind, transport):
    case = Completions(6)
    expected = case.expected_gradient(transport)
    assert_close(case.our_gradient(transport), expected)
    # What is proved is not the sum of single steps: without the long part the gradient is another one.
    short = np.abs(case.our_gradient(transport, length_normalized=True) - expected).max()
    assert short > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize(("pair", "message"), REFUSED.items())
def test_a_pair_without_a_bound_is_refused_by_configuration_and_learner(pair, message):
    kind, transport = pair
    with pytest.raises(ConfigError, match=message):
        load_run_config(
            "tiny",
            ["student.model=s", "teacher.model=t", f"objective.divergence={kind}", f"teacher.transport={transport}",
             "objective.student_fraction=1"],
        )  # fmt: skip
    tokens = random_tokens(7)
    with pytest.raises(EngineError, match="reverse KL"):
        tokens.loss(tokens.objective(kind, transport), tokens.scored(transport), np.ones(9))


@pytest.mark.parametrize("pair", BOUNDS)
def test_a_pair_with_a_bound_is_accepted(pair):
    kind, transport = pair
    config = load_run_config(
        "tiny",
        ["student.model=s", "teacher.model=t", f"objective.divergence={kind}", f"teacher.transport={transport}",
         "objective.student_fraction=1"],
    )  # fmt: skip
    assert (config.objective.divergence, config.teacher.transport) == pair


def test_sampled_log_probs_say_nothing_about_fixed_pairs():
    tokens = random_tokens(8, lengths=(4,))
    (item,) = tokens.scored("sampled")
    fixed = [scored(tokens.ids, item.scores[0].targets, fixed=True)]
    assert measurable([item], ReverseKl())
    assert not measurable([item, *fixed], ReverseKl())
    with pytest.raises(EngineError, match="fixed pairs"):
        tokens.loss(tokens.objective("reverse_kl", "sampled"), fixed, np.ones(4))
