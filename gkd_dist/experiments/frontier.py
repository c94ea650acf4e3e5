"""Two curves compared where both are: the mean of a metric over the values of another one that both sides reach.

Each side has one point for each label of an axis (alpha, say), whose labels mean different things on the two sides.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gkd_dist.experiments.cells import Cell
from gkd_dist.experiments.measurements import Measurement

_NUM_PLACES = 201
"""Of the common range, evenly apart."""

Points = Sequence[tuple[Cell, Cell]]
"""Metric and the other metric, by label of the axis."""


def at_equal(above: Points, below: Points) -> tuple[Cell, Cell] | None:
    """For each side a cell with the mean height of its curve, straight between its points, over the common range.

    Curves are those of one seed; seeds that some point lacks are left out. None where no seed has a common range of
    more than one value.
    """
    sides: tuple[dict[str, Measurement], dict[str, Measurement]] = ({}, {})
    for seed in _seeds(above) & _seeds(below):
        places = [np.array([x.by_seed[seed].value for _, x in points]) for points in (above, below)]
        low, high = max(each.min() for each in places), min(each.max() for each in places)
        if low < high:
            for side, points, place in zip(sides, (above, below), places, strict=True):
                side[seed] = _mean(points, seed, _weights(place, float(low), float(high)))
    if not sides[0]:
        return None
    first, second = (
        Cell(points[0][0].place, points[0][0].metric, dict(sorted(side.items())))
        for points, side in zip((above, below), sides, strict=True)
    )
    return first, second


def _seeds(points: Points) -> set[str]:
    return set() if not points else set.intersection(*({*y.by_seed} & {*x.by_seed} for y, x in points))


def _weights(places: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
    """[A] of each point in the mean height of the curve between `low` and `high`."""
    order = np.argsort(places, kind="stable")
    wanted = np.linspace(low, high, _NUM_PLACES)
    heights = [np.interp(wanted, places[order], unit) for unit in np.eye(len(places))[:, order]]
    return np.asarray(np.mean(heights, axis=1))


def _mean(points: Points, seed: str, weights: npt.NDArray[np.float64]) -> Measurement:
    own = [y.by_seed[seed] for y, _ in points]
    return Measurement(
        run=own[0].run,
        stage=own[0].stage,
        labels=own[0].labels,
        evaluation=own[0].evaluation,
        metric=own[0].metric,
        value=float(weights @ np.array([each.value for each in own])),
        resampled=weights @ np.stack([each.resampled for each in own]),
        num_rows=min(each.num_rows for each in own),
    )
