"""Mixtures of teachers: against float64 from the definition, what they leave invariant, and what they cost."""

import math
import weakref
from itertools import permutations

import divergence_reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture_reference import mixture
from torch import Tensor

from gkd_dist.divergences import (
    MixedTeacher,
    MixtureKind,
    Readout,
    chunked_divergence,
    full_teacher,
    hidden_teacher,
    make_divergence,
    mixed_teacher,
)

N, V, H = 41, 23, 5  # more tokens than one block of rows
KINDS: tuple[MixtureKind, ...] = ("arithmetic", "geometric")
WEIGHTS, TEMPERATURES = (2.0, 0.5, 1.3), (0.7, 1.0, 2.5)


def logits(seed: int, *, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return scale * torch.randn(N, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def log_probs_of(teachers: list[MixedTeacher], kind: MixtureKind) -> Tensor:
    """[N, V] of the mixture, asked for in two slices."""
    mixed = mixed_teacher(teachers, kind)
    return torch.log_softmax(torch.cat([mixed(slice(0, 3)), mixed(slice(3, N))]), dim=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mixture_is_that_of_the_definition(kind: MixtureKind) -> None:
    """To 1e-12: float64 on both sides."""
    all_logits = [logits(seed) for seed in range(3)]
    teachers = [
        MixedTeacher(full_teacher(each), weight, temperature)
        for each, weight, temperature in zip(all_logits, WEIGHTS, TEMPERATURES, strict=True)
    ]
    expected = mixture(kind, [each.numpy() for each in all_logits], WEIGHTS, TEMPERATURES)
    np.testing.assert_allclose(log_probs_of(teachers, kind).numpy(), np.log(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "tvd"])
def test_value_and_gradient_of_the_loss_are_those_of_the_definition(kind: MixtureKind, divergence: str) -> None:
    """A hidden-state teacher and one of full log-probs, through the chunked loss in float64; to 1e-10."""
    generator = torch.Generator().manual_seed(9)
    student_hidden, head = (torch.randn(n, H, generator=generator, dtype=torch.float64) for n in (N, V))
    teacher_hidden = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    teacher_head = torch.randn(V, 4, generator=generator, dtype=torch.float64)
    weights = torch.rand(N, generator=generator, dtype=torch.float64)
    full = logits(3)

    mixed = mixed_teacher(
        [
            MixedTeacher(hidden_teacher(teacher_hidden, Readout(teacher_head)), 3.0, 0.5),
            MixedTeacher(full_teacher(torch.log_softmax(full, dim=-1)), 1.0, 1.5),
        ],
        kind,
    )
    student_hidden.requires_grad_()
    result = chunked_divergence(
        student_hidden, Readout(head), mixed, weights, make_divergence(divergence, beta=0.25), chunk_tokens=19
    )
    result.loss.backward()

    p = mixture(kind, [(teacher_hidden @ teacher_head.T).numpy(), full.numpy()], (3.0, 1.0), (0.5, 1.5))
    q = divergence_reference.softmax((student_hidden.detach() @ head.T).numpy())
    values = [divergence_reference.value(divergence, p[n], q[n], 0.25) for n in range(N)]
    slopes = [weights[n].item() * divergence_reference.logit_gradient(divergence, p[n], q[n], 0.25) for n in range(N)]
    np.testing.assert_allclose(result.per_token.numpy(), values, rtol=1e-10)
    np.testing.assert_allclose(result.loss.item(), np.dot(weights.numpy(), values), rtol=1e-10)
    np.testing.assert_allclose(student_hidden.grad.numpy(), np.stack(slopes) @ head.numpy(), rtol=1e-9, atol=1e-12)


def teachers_of(seeds: tuple[int, ...], *, dtype: torch.dtype = torch.float64) -> list[MixedTeacher]:
    return [
        MixedTeacher(full_teacher(logits(seed, dtype=dtype)), weight, temperature)
        for seed, weight, temperature in zip(seeds, WEIGHTS, TEMPERATURES, strict=False)
    ]


@given(
    kind=st.sampled_from(KINDS),
    weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4),
    temperature=st.floats(0.1, 4),
)
@settings(max_examples=30, deadline=None)
def test_equal_teachers_mix_to_the_single_one(kind: MixtureKind, weights: list[float], temperature: float) -> None:
    """To 2e-6 of the largest log-prob: rounding of float32 (6e-8), a few times."""
    same = logits(4, dtype=torch.float32)
    mixed = log_probs_of([MixedTeacher(full_teacher(same), weight, temperature) for weight in weights], kind)
    single = torch.log_softmax(same / temperature, dim=-1)
    torch.testing.assert_close(mixed, single, rtol=0, atol=2e-6 * float(single.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_all_weight_on_one_teacher_leaves_that_one(kind: MixtureKind) -> None:
    """In probabilities, to 2e-11: a share of 1e-12, times at most the largest difference in log-probs, below 20."""
    heavy = MixedTeacher(full_teacher(logits(1, scale=1.0)), 1e12, 0.5)
    light = MixedTeacher(full_teacher(logits(2, scale=1.0)), 1.0, 0.5)
    expected = torch.softmax(logits(1, scale=1.0) / 0.5, dim=-1)
    torch.testing.assert_close(log_probs_of([light, heavy], kind).exp(), expected, rtol=0, atol=2e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_too_small_for_a_number_is_none(kind: MixtureKind) -> None:
    teachers = [MixedTeacher(full_teacher(logits(seed)), weight) for seed, weight in ((0, 1e-300), (1, 1e300))]
    torch.testing.assert_close(log_probs_of(teachers, kind), torch.log_softmax(logits(1), dim=-1))


@pytest.mark.parametrize("kind", KINDS)
def test_neither_order_nor_scale_of_the_weights_matters(kind: MixtureKind) -> None:
    teachers = teachers_of((0, 1, 2))
    expected = log_probs_of(teachers, kind)
    for order in permutations(teachers):
        torch.testing.assert_close(log_probs_of(list(order), kind), expected, rtol=0, atol=1e-12)
    scaled = [MixedTeacher(each.logits, 64 * each.weight, each.temperature) for each in teachers]
    torch.testing.assert_close(log_probs_of(scaled, kind), expected, rtol=0, atol=1e-12)


def test_the_two_mixtures_differ_as_they_should() -> None:
    """What one teacher rules out is possible under the arithmetic mixture and ruled out under the geometric one."""
    one, other = torch.tensor([[0.0, 0.0, -60.0]]), torch.tensor([[0.0, -60.0, 0.0]])
    teachers = [MixedTeacher(full_teacher(each)) for each in (one, other)]
    probs = {kind: torch.softmax(mixed_teacher(teachers, kind)(slice(0, 1)), dim=-1)[0] for kind in KINDS}
    torch.testing.assert_close(probs["arithmetic"], torch.tensor([0.5, 0.25, 0.25]), rtol=0, atol=1e-6)
    torch.testing.assert_close(probs["geometric"], torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_far_logits_and_low_temperatures_stay_finite(kind: MixtureKind) -> None:
    far = [MixedTeacher(full_teacher(logits(seed, scale=200.0, dtype=torch.float32)), 1.0, 0.1) for seed in (0, 1)]
    log_probs = log_probs_of(far, kind)
    assert log_probs.isfinite().all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(N), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_both_teachers_rule_out_stay_out(kind: MixtureKind) -> None:
    rows = torch.tensor([[0.0, 1.0, -math.inf]])
    mixed = mixed_teacher([MixedTeacher(full_teacher(rows), weight) for weight in (1.0, 2.0)], kind)(slice(0, 1))
    torch.testing.assert_close(torch.softmax(mixed, dim=-1), torch.softmax(rows, dim=-1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_teachers_own_rows_are_left_as_they_are(kind: MixtureKind) -> None:
    rows = [logits(seed) for seed in (0, 1)]
    before = [each.clone() for each in rows]
    log_probs_of([MixedTeacher(full_teacher(each)) for each in rows], kind)
    assert all(torch.equal(*pair) for pair in zip(rows, before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_one_tile_of_a_teacher_exists_at_a_time(kind: MixtureKind) -> None:
    tiles: list[weakref.ref[Tensor]] = []

    def fresh(span: slice) -> Tensor:
        assert all(tile() is None for tile in tiles)
        tile = logits(len(tiles))[span].clone()
        tiles.append(weakref.ref(tile))
        return tile

    mixed_teacher([MixedTeacher(fresh)] * 4, kind)(slice(0, N))
    assert len(tiles) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_rows_are_mixed_in_float32(kind: MixtureKind) -> None:
    rows = [logits(seed, dtype=torch.bfloat16) for seed in (0, 1)]
    mixed = log_probs_of([MixedTeacher(full_teacher(each)) for each in rows], kind)
    exact = log_probs_of([MixedTeacher(full_teacher(each.double())) for each in rows], kind)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.double(), exact, rtol=0, atol=1e-5)


def test_wrong_arguments_are_refused() -> None:
    teacher = MixedTeacher(full_teacher(logits(0)))
    with pytest.raises(ValueError, match="at least one teacher"):
        mixed_teacher([], "geometric")
    with pytest.raises(ValueError, match="choose one of arithmetic, geometric"):
        mixed_teacher([teacher], "harmonic")  # type: ignore[arg-type]
    for numbers in ((0.0, 1.0), (1.0, 0.0), (math.inf, 1.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="positive and finite"):
            MixedTeacher(teacher.logits, *numbers)
    narrow = MixedTeacher(full_teacher(logits(0)[:, :-1]))
    with pytest.raises(ValueError, match=r"same ids, got logits \[41, 23\] and \[41, 22\]"):
        mixed_teacher([teacher, narrow], "arithmetic")(slice(0, N))
