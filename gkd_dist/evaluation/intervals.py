"""Figures with their uncertainty: percentile bootstrap over segments (Efron; `scipy.stats.bootstrap`)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
"""[..., n] segment numbers: all of them once, or resamples of them."""
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that was measured."""

    value: float
    low: float | None
    """Ends of the confidence interval; None where there are fewer than two segments to resample."""
    high: float | None
    num_segments: int
    """Rows, or prompts, that were resampled."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are made. The same seed gives the same interval, whatever was computed before."""

    num_resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def mean(self, values: Sequence[float]) -> Figure:
        """Of one value per segment, at least one."""
        array = np.asarray(values, dtype=np.float64)
        return self.figure([len(array)], lambda indices: array[indices].mean(axis=-1))

    def ratio(self, above: Sequence[float], below: Sequence[float]) -> Figure:
        """Sum over sum, both resampled together: a mean over tokens whose segments are sequences."""
        over, under = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
        return self.figure([len(over)], lambda indices: over[indices].sum(axis=-1) / under[indices].sum(axis=-1))

    def mean_of_means(self, groups: Sequence[Sequence[float]]) -> Figure:
        """Unweighted mean over groups of their means; each group is resampled by itself."""
        arrays = [np.asarray(group, dtype=np.float64) for group in groups]

        def statistic(*indices: Indices) -> Values:
            means = [array[own].mean(axis=-1) for array, own in zip(arrays, indices, strict=True)]
            return np.mean(means, axis=0)

        return self.figure([len(array) for array in arrays], statistic)

    def figure(self, sizes: Sequence[int], statistic: Callable[..., Values]) -> Figure:
        """Any statistic.

        Args:
            sizes: number of segments of each group, at least one.
            statistic: takes an [..., n] array of segment numbers for each group, returns [...] values.
        """
        from scipy.stats import bootstrap

        everything = tuple(np.arange(size) for size in sizes)
        value = float(statistic(*everything))
        if min(sizes) < 2 or not math.isfinite(value):
            return Figure(value, None, None, sum(sizes))
        result = bootstrap(
            everything,
            lambda *indices, axis: statistic(*indices),  # noqa: ARG005 - the last one, always
            n_resamples=self.num_resamples,
            batch=100,
            confidence_level=self.confidence,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(self.seed),
        )
        interval = result.confidence_interval
        return Figure(value, float(interval.low), float(interval.high), sum(sizes))


def t_quantile(probability: float, degrees: int) -> float:
    """Of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
