"""Means over seeds, and differences of such means, with confidence intervals.

Two things are uncertain: which seeds were run, and which rows the test set has. Over n seeds the margin is that of
Student's t with n - 1 degrees of freedom; over rows it is that of the percentile bootstrap of the mean over these
seeds, whose resamples are the same for all runs. The two margins are added in quadrature, on each side by itself
(Zou and Donner, Statistics in Medicine 27, 2008: the method of variance estimates recovery). A single seed has the
interval of its rows alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gkd_dist.evaluation.intervals import t_quantile
from gkd_dist.experiments.measurements import CONFIDENCE, NUM_RESAMPLES, Measurement
from gkd_dist.experiments.spec import SEED

METHOD = (
    f"{100 * CONFIDENCE:.0f}% intervals: Student's t over seeds, percentile bootstrap over test rows "
    f"({NUM_RESAMPLES} resamples), margins added in quadrature"
)
NO_SEED = ""
"""What the seed of a stage is called that is not over seeds: it exists once."""


@dataclass(frozen=True)
class Interval:
    """A number with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One cell less another one."""

    interval: Interval
    above: float
    """Mean over the seeds that both have; so is `below`."""
    below: float
    seeds: tuple[str, ...]
    """Of which the difference is the mean; none where both sides exist once."""

    @property
    def tells(self) -> bool:
        """Whether more is known than the rows of a single seed say."""
        return len(self.seeds) != 1


@dataclass(frozen=True)
class Cell:
    """One metric of one evaluation at one place of the axes, over its seeds."""

    place: Mapping[str, str]
    """Labels by axis, and `stage` and `evaluation`."""
    metric: str
    by_seed: Mapping[str, Measurement]

    @property
    def value(self) -> float:
        return float(np.mean([each.value for each in self.by_seed.values()]))

    @property
    def interval(self) -> Interval:
        own = list(self.by_seed.values())
        return mean_interval([each.value for each in own], [each.resampled for each in own])

    @property
    def num_rows(self) -> int:
        return min(each.num_rows for each in self.by_seed.values())


def mean_interval(values: Sequence[float], resampled: Sequence[npt.NDArray[np.float64]]) -> Interval:
    """Of the mean of `values`, one for each seed.

    Args:
        resampled: of each seed [R] values under resampled rows, the same rows for all seeds.
    """
    mean, num_seeds, tail = float(np.mean(values)), len(values), (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.mean(resampled, axis=0), [tail, 1 - tail])
    of_seeds = 0.0
    if num_seeds > 1:
        of_seeds = t_quantile(1 - tail, num_seeds - 1) * float(np.std(values, ddof=1)) / num_seeds**0.5
    below, above = max(0.0, mean - float(low)), max(0.0, float(high) - mean)
    return Interval(mean, mean - float(np.hypot(below, of_seeds)), mean + float(np.hypot(above, of_seeds)))


def difference(above: Cell, below: Cell) -> Difference | None:
    """Paired by the labels of seeds; what exists once stands against every seed. None where no seed is shared."""
    if NO_SEED in above.by_seed or NO_SEED in below.by_seed:
        seeds = tuple(seed for seed in {**above.by_seed, **below.by_seed} if seed != NO_SEED)
    else:
        seeds = tuple(seed for seed in above.by_seed if seed in below.by_seed)
        if not seeds:
            return None
    first, second = (
        [cell.by_seed[NO_SEED] if NO_SEED in cell.by_seed else cell.by_seed[seed] for seed in seeds or (NO_SEED,)]
        for cell in (above, below)
    )
    pairs = list(zip(first, second, strict=True))
    found = mean_interval([a.value - b.value for a, b in pairs], [a.resampled - b.resampled for a, b in pairs])
    mean, other = (float(np.mean([each.value for each in side])) for side in (first, second))
    return Difference(found, mean, other, seeds)


def cells(measurements: Iterable[Measurement]) -> list[Cell]:
    """One for each place and metric, in the order in which they come first."""
    groups: dict[tuple[object, ...], list[Measurement]] = defaultdict(list)
    for each in measurements:
        place = {key: label for key, label in each.place.items() if key != SEED}
        groups[(*sorted(place.items()), each.metric)].append(each)
    return [_cell(group) for group in groups.values()]


def _cell(group: Sequence[Measurement]) -> Cell:
    by_seed = {each.seed: each for each in sorted(group, key=lambda each: each.seed)}
    first = group[0]
    return Cell({key: label for key, label in first.place.items() if key != SEED}, first.metric, by_seed)
