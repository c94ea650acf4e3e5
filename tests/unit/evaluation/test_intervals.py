"""Bootstrap intervals against a loop, and what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.evaluation.intervals import Bootstrap

BOOTSTRAP = Bootstrap(num_resamples=2000, confidence=0.9, seed=3)


def test_the_interval_of_a_mean_is_that_of_resampling_by_hand() -> None:
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, size=40)
    means = sorted(float(np.mean(rng.choice(values, 40))) for _ in range(20_000))
    figure = BOOTSTRAP.mean(values.tolist())
    assert figure.value == pytest.approx(values.mean())
    # The ends of 2000 resamples scatter by about 3 % of the interval's width.
    width = means[-1001] - means[1000]
    assert figure.low == pytest.approx(means[1000], abs=0.12 * width)
    assert figure.high == pytest.approx(means[-1001], abs=0.12 * width)


def test_a_ratio_resamples_both_of_its_parts_together() -> None:
    lengths = [1.0, 5.0, 9.0, 2.0]
    figure = BOOTSTRAP.ratio([0.5 * length for length in lengths], lengths)
    assert (figure.value, figure.low, figure.high) == (0.5, 0.5, 0.5)
    assert BOOTSTRAP.ratio([1.0, 8.0], [1.0, 2.0]).value == 3.0


def test_a_task_counts_once_however_many_rows_it_has() -> None:
    figure = BOOTSTRAP.mean_of_means([[1.0, 1.0], [0.0] * 98])
    assert (figure.value, figure.num_segments) == (0.5, 100)
    assert (figure.low, figure.high) == (0.5, 0.5)  # each group is resampled by itself
    spread = BOOTSTRAP.mean_of_means([[0.0, 1.0], [0.0, 1.0]])
    assert (spread.low, spread.high) == (0.0, 1.0)


def test_one_segment_has_no_interval() -> None:
    figure = BOOTSTRAP.mean([2.0])
    assert (figure.value, figure.low, figure.high) == (2.0, None, None)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_an_interval_repeats_for_a_seed_and_lies_within_the_values(values: list[float]) -> None:
    first, second = (Bootstrap(100, 0.95, 1).mean(values) for _ in range(2))
    assert first == second
    assert min(values) - 1e-9 <= first.low <= first.high <= max(values) + 1e-9  # type: ignore[operator]
