from math import floor, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.data.mixture import Mixture

CONSTANT = ScheduleConfig()


def mixture(student_fraction, mix="per_sequence", schedule=CONSTANT, *, batch_size=8, seed=0, max_steps=100):
    return Mixture(student_fraction, mix, schedule, batch_size=batch_size, seed=seed, max_steps=max_steps)


def test_quota_spreads_the_fraction_over_the_steps():
    assert [mixture(0.3, batch_size=4).num_student(step) for step in range(5)] == [1, 1, 2, 1, 1]
    assert [mixture(0.05, batch_size=4).num_student(step) for step in range(6)] == [0, 0, 1, 0, 0, 0]


@given(
    percent=st.integers(0, 100),
    batch_size=st.integers(1, 17),
    num_steps=st.integers(1, 200),
    start=st.integers(0, 10**6),
)
def test_quota_is_never_off_by_more_than_half_a_sequence(percent, batch_size, num_steps, start):
    quota = mixture(percent / 100, batch_size=batch_size)
    counts = [quota.num_student(step) for step in range(num_steps)]
    total = 0
    for step, count in enumerate(counts, start=1):
        assert 0 <= count <= batch_size
        total += count
        assert total == floor((2 * step * batch_size * percent + 100) / 200)
    assert 0 <= quota.num_student(start) <= batch_size


@given(
    first=st.integers(0, 20),
    final=st.integers(0, 20),
    at_step=st.none() | st.integers(1, 60),
    kind=st.sampled_from(["linear", "step"]),
    batch_size=st.integers(1, 9),
)
def test_quota_follows_the_sum_of_the_schedule(first, final, at_step, kind, batch_size):
    schedule = ScheduleConfig(type=kind, final=final / 20, at_step=at_step or (7 if kind == "step" else None))
    quota = mixture(first / 20, schedule=schedule, batch_size=batch_size, max_steps=50)
    expected = 0.0
    total = 0
    for step in range(80):
        expected += batch_size * quota.student_fraction(step)
        total += quota.num_student(step)
        # `expected` is a floating-point sum; half a sequence is the claim, the rest its rounding.
        assert abs(total - expected) <= 0.5 + 1e-9


def test_linear_schedule_moves_from_the_first_value_to_the_final_one():
    linear = mixture(1.0, schedule=ScheduleConfig(type="linear", final=0.5), max_steps=10)
    assert [linear.student_fraction(step) for step in (0, 1, 5, 10, 12)] == [1.0, 0.95, 0.75, 0.5, 0.5]
    early = mixture(0.0, schedule=ScheduleConfig(type="linear", final=1.0, at_step=4), max_steps=10)
    assert [early.student_fraction(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_step_schedule_jumps():
    jump = mixture(0.0, schedule=ScheduleConfig(type="step", final=1.0, at_step=3))
    assert [jump.num_student(step) for step in range(5)] == [0, 0, 0, 8, 8]


def test_coin_takes_the_whole_batch_or_nothing_and_depends_on_seed_and_step_alone():
    coin = mixture(0.5, "per_batch")
    drawn = [coin.num_student(step) for step in range(200)]
    assert set(drawn) == {0, 8}
    assert [mixture(0.5, "per_batch").num_student(step) for step in reversed(range(200))][::-1] == drawn
    assert [mixture(0.5, "per_batch", seed=1).num_student(step) for step in range(200)] != drawn


@pytest.mark.parametrize("student_fraction", [0.1, 0.25, 0.5, 0.9])
def test_coin_has_the_fraction_as_its_mean(student_fraction):
    coin = mixture(student_fraction, "per_batch", batch_size=1)
    mean = sum(coin.num_student(step) for step in range(10_000)) / 10_000
    assert abs(mean - student_fraction) < 3 * sqrt(student_fraction * (1 - student_fraction) / 10_000)


@pytest.mark.parametrize("mix", ["per_batch", "per_sequence"])
def test_ends_are_pure(mix):
    assert {mixture(1.0, mix).num_student(step) for step in range(500)} == {8}
    assert {mixture(0.0, mix).num_student(step) for step in range(500)} == {0}


def test_needs_fixed_looks_at_the_whole_schedule():
    assert not mixture(1.0).needs_fixed
    assert mixture(0.9).needs_fixed
    assert mixture(1.0, schedule=ScheduleConfig(type="linear", final=0.5)).needs_fixed


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="student_fraction"):
        mixture(1.5)
    with pytest.raises(ValueError, match="batch_size"):
        mixture(0.5, batch_size=0)
    with pytest.raises(ValueError, match="step"):
        mixture(0.5).num_student(-1)
