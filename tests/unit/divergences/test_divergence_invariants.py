"""What must hold for any input: properties over generated cases, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gkd_dist.divergences import (
    Readout,
    chunked_divergence,
    full_teacher,
    hidden_teacher,
    make_divergence,
    predicting_positions,
    token_weights,
)

SOME = settings(max_examples=20, deadline=None, derandomize=True)
FEW = settings(SOME, max_examples=10)
KINDS = st.sampled_from(["forward_kl", "reverse_kl", "jsd", "tvd", "skewed_forward_kl", "skewed_reverse_kl"])
BETAS = st.floats(0.05, 0.95)
IDS = st.shared(st.integers(2, 9), key="ids")


def _rows(bound):
    return IDS.flatmap(lambda ids: hnp.arrays(np.float64, (2, ids), elements=st.floats(-bound, bound, width=32)))


def _log_probs(logits):
    return torch.log_softmax(torch.tensor(logits), -1)


@SOME
@given(_rows(30), _rows(30), KINDS, BETAS)
def test_never_negative(teacher, student, kind, beta):
    nats = make_divergence(kind, beta=beta, skew=beta)(_log_probs(teacher), _log_probs(student))
    # A sum of nine terms of either sign that nearly cancel leaves a few 1e-15.
    assert (nats >= -1e-13).all()
    if kind == "jsd":
        # The mutual information of a token and the side it was drawn from is at most that of the side.
        assert (nats <= -(beta * np.log(beta) + (1 - beta) * np.log(1 - beta)) + 1e-13).all()
    if kind == "tvd":
        assert (nats <= 1 + 1e-13).all()
    if kind.startswith("skewed"):
        # The mixture holds at least the share `skew` of what is compared with it.
        assert (nats <= -np.log(beta) + 1e-13).all()


@SOME
@given(_rows(30), KINDS, BETAS, st.floats(-50, 50))
def test_zero_with_zero_gradient_for_equal_distributions(logits, kind, beta, shift):
    student = torch.tensor(logits + shift, requires_grad=True)
    nats = make_divergence(kind, beta=beta, skew=beta)(_log_probs(logits), torch.log_softmax(student, -1))
    nats.sum().backward()
    # Log-probs of size 100 carry 1e-14; the TVD's gradient is a sign and may be that of a rounding error.
    torch.testing.assert_close(nats, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    if kind != "tvd":
        torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-12)


@SOME
@given(_rows(5), _rows(5), KINDS, BETAS)
def test_positive_for_different_distributions(teacher, student, kind, beta):
    p, q = _log_probs(teacher), _log_probs(student)
    distance = 0.5 * (p.exp() - q.exp()).abs().sum(-1)
    nats = make_divergence(kind, beta=beta, skew=beta)(p, q)
    # Pinsker: KL >= 2 tvd^2. M lies (1 - beta) tvd from P and beta tvd from Q: JSD >= 2 beta (1 - beta) tvd^2. The
    # mixture of a skewed KL lies (1 - skew) tvd away.
    skewed = 2 * ((1 - beta) * distance) ** 2
    bound = {
        "tvd": distance,
        "jsd": 2 * beta * (1 - beta) * distance**2,
        "skewed_forward_kl": skewed,
        "skewed_reverse_kl": skewed,
    }.get(kind, 2 * distance**2)
    assert (nats >= bound - 1e-13).all()


@SOME
@given(_rows(20), _rows(20), KINDS, BETAS, st.floats(-30, 30))
def test_shifting_all_logits_changes_nothing(teacher, student, kind, beta, shift):
    divergence = make_divergence(kind, beta=beta, skew=beta)
    results = []
    for t, s in ((teacher, student), (teacher - shift, student + shift)):
        z = torch.tensor(s, requires_grad=True)
        nats = divergence(_log_probs(t), torch.log_softmax(z, -1))
        nats.sum().backward()
        results.append((nats.detach(), z.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-9, atol=1e-11)
    if kind != "tvd":  # its gradient jumps where P = Q, which rounding may cross
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(results[0][1].sum(-1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-11)


@SOME
@given(_rows(5), _rows(5), BETAS)
def test_jsd_is_symmetric_under_exchange_of_the_sides_with_their_weights(teacher, student, beta):
    p, q = _log_probs(teacher), _log_probs(student)
    one, other = make_divergence("jsd", beta=beta), make_divergence("jsd", beta=1 - beta)
    torch.testing.assert_close(one(p, q), other(q, p), rtol=1e-9, atol=1e-12)


class Batch:
    """A right-padded batch [B, T] of student hidden states with teacher hidden states per completion token."""

    H, HT, V = 3, 5, 11

    def __init__(self, lengths, seed):
        self.prompts = [prompt for prompt, _ in lengths]
        self.completions = [completion for _, completion in lengths]
        self.generator = torch.Generator().manual_seed(seed)
        self.hidden = [self._randn(prompt + completion, self.H) for prompt, completion in lengths]
        self.teacher_hidden = [self._randn(completion, self.HT) for completion in self.completions]
        self.weight, self.teacher_readout = self._randn(self.V, self.H), Readout(self._randn(self.V, self.HT))

    def _randn(self, *shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def part(self, rows, reduction, kind, *, pad=0, chunk_tokens=256):
        """Loss, d hidden of each row (its real positions), d weight, of some rows in one micro-batch."""
        width = max(len(self.hidden[row]) for row in rows) + pad
        padded = self._randn(len(rows), width, self.H) * 100
        for index, row in enumerate(rows):
            padded[index, : len(self.hidden[row])] = self.hidden[row]
        padded.requires_grad_()
        weight = self.weight.clone().requires_grad_()
        completions = [self.completions[row] for row in rows]
        picked = predicting_positions([self.prompts[row] for row in rows], completions, width)
        result = chunked_divergence(
            padded.flatten(0, 1)[picked],
            Readout(weight),
            hidden_teacher(torch.cat([self.teacher_hidden[row] for row in rows]), self.teacher_readout),
            token_weights(
                completions, reduction, num_sequences=len(self.completions), num_tokens=sum(self.completions)
            ),
            make_divergence(kind, beta=0.25),
            chunk_tokens=chunk_tokens,
        )
        result.loss.backward()
        for index, row in enumerate(rows):
            assert (padded.grad[index, len(self.hidden[row]) - 1 :] == 0).all()
            assert (padded.grad[index, : self.prompts[row] - 1] == 0).all()
        rows_grad = {row: padded.grad[index, : len(self.hidden[row])] for index, row in enumerate(rows)}
        return result.loss.detach(), rows_grad, weight.grad


RAGGED = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=5)
REDUCTIONS = st.sampled_from(["sequence_mean", "token_mean"])


@FEW
@given(RAGGED, st.data(), REDUCTIONS, KINDS, st.integers(0, 2**31))
def test_any_split_and_padding_give_the_loss_and_gradient_of_the_whole(lengths, data, reduction, kind, seed):
    batch = Batch(lengths, seed)
    whole_loss, whole_hidden, whole_weight = batch.part(range(len(lengths)), reduction, kind)
    rank = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)), label="micro-batch")
    parts = [[row for row, of in enumerate(rank) if of == which] for which in range(3)]
    runs = [
        batch.part(rows, reduction, kind, pad=data.draw(st.integers(0, 3), label="padding"), chunk_tokens=2)
        for rows in parts
        if rows
    ]
    torch.testing.assert_close(sum(loss for loss, _, _ in runs), whole_loss, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(sum(weight for _, _, weight in runs), whole_weight, rtol=1e-9, atol=1e-12)
    for _, rows_grad, _ in runs:
        for row, gradient in rows_grad.items():
            torch.testing.assert_close(gradient, whole_hidden[row], rtol=1e-9, atol=1e-12)


@FEW
@given(st.integers(1, 12), st.integers(1, 14), KINDS, st.integers(0, 2**31))
def test_chunk_size_changes_nothing(num_tokens, chunk_tokens, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, logits = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(num_tokens, 3), (7, 3), (num_tokens, 7)]
    )
    results = []
    for chunk in (num_tokens, chunk_tokens):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        weights = torch.rand(num_tokens, generator=torch.Generator().manual_seed(1))
        result = chunked_divergence(
            h, Readout(w), full_teacher(logits), weights, make_divergence(kind), chunk_tokens=chunk
        )
        result.loss.backward()
        results.append((result.loss.detach(), result.per_token, h.grad, w.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_the_denominator_of_a_part_would_change_the_gradient():
    """Guards the split test above: with local denominators it would fail."""
    local = token_weights([2], "sequence_mean", num_sequences=1, num_tokens=2)
    in_step = token_weights([2], "sequence_mean", num_sequences=2, num_tokens=7)
    assert local.tolist() == pytest.approx([0.5, 0.5]) and in_step.tolist() == pytest.approx([0.25, 0.25])
