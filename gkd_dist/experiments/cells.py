"""Means over seeds with confidence intervals: percentile bootstrap over seeds and over rows.

A resample draws seeds, and rows of the test set that are the same for all seeds and runs. With a single seed the
interval tells of the rows alone; with three it is rather too narrow than too wide, as any bootstrap of three.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gkd_dist.experiments.measurements import CONFIDENCE, NUM_RESAMPLES, Measurement
from gkd_dist.experiments.spec import SEED

METHOD = f"{100 * CONFIDENCE:.0f}% percentile bootstrap over seeds and test rows, {NUM_RESAMPLES} resamples"
_SEED = 1306


@dataclass(frozen=True)
class Interval:
    """A number with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """One metric of one evaluation at one place of the axes, over its seeds."""

    place: Mapping[str, str]
    """Labels by axis, and `stage` and `evaluation`."""
    metric: str
    by_seed: Mapping[str, Measurement]
    resampled: npt.NDArray[np.float64] = field(repr=False)
    """[NUM_RESAMPLES] means under resampled seeds and rows."""

    @property
    def value(self) -> float:
        return float(np.mean([each.value for each in self.by_seed.values()]))

    @property
    def interval(self) -> Interval:
        return interval(self.value, self.resampled)

    @property
    def num_rows(self) -> int:
        return min(each.num_rows for each in self.by_seed.values())


def interval(value: float, resampled: npt.NDArray[np.float64]) -> Interval:
    """The percentile interval of resampled values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


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
    place = {key: label for key, label in first.place.items() if key != SEED}
    values = np.stack([each.resampled for each in by_seed.values()])
    return Cell(place, first.metric, by_seed, _over_seeds(values))


def _over_seeds(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[S, R] values by seed and resample -> [R] means over S seeds drawn anew for each resample.

    The draws depend on S and R alone: cells with the same seeds are paired in them, too.
    """
    num_seeds, num_resamples = values.shape
    drawn = np.random.default_rng([_SEED, num_seeds]).integers(0, num_seeds, (num_seeds, num_resamples))
    return np.asarray(np.take_along_axis(values, drawn, axis=0).mean(axis=0))
