"""Two curves compared where both are: the mean of a metric over the values of another one that both sides reach.

Each side has one point for each label of an axis (alpha, say), whose labels mean different things on the two sides.
Both metrics are of the same rows, and both are uncertain: under every resample of the rows the points move in both
directions, and all is computed anew, the common range too.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gkd_dist.experiments.cells import NO_SEED, Cell
from gkd_dist.experiments.measurements import Measurement

_NUM_PLACES = 201
"""Of the common range, evenly apart."""

Points = Sequence[tuple[Cell, Cell]]
"""Metric and the other metric, by label of the axis."""
_Array = npt.NDArray[np.float64]
_Curve = tuple[_Array, _Array]
"""[A] values of the other metric and of the metric."""


def at_equal(above: Points, below: Points) -> tuple[Cell, Cell] | None:
    """For each side a cell with the mean height of its curve, straight between its points, over the common range.

    Curves are those of one seed; seeds that some point lacks are left out. None where no seed has a common range of
    more than one value.
    """
    sides: tuple[dict[str, Measurement], dict[str, Measurement]] = ({}, {})
    for seed in shared_seeds(above, below):
        heights = _heights(_curve(above, seed), _curve(below, seed))
        if heights is None:
            continue
        moved = [[_curve(points, seed, number) for points in (above, below)] for number in range(_num_resamples(above))]
        resampled = np.array([_mean_heights(first, second) for first, second in moved])
        for side, points, value, values in zip(sides, (above, below), heights, resampled.T, strict=True):
            side[seed] = _measurement(points, seed, value, values)
    if not sides[0]:
        return None
    first, second = (
        Cell(points[0][0].place, points[0][0].metric, dict(sorted(side.items())))
        for points, side in zip((above, below), sides, strict=True)
    )
    return first, second


def shared_seeds(above: Points, below: Points) -> list[str]:
    """That all points of both curves have; what exists once is the same for every seed."""
    found = [set(cell.by_seed) for point in (*above, *below) for cell in point]
    return sorted(set.intersection(*([each for each in found if NO_SEED not in each] or found or [set()])))


def _of_seed(cell: Cell, seed: str) -> Measurement:
    return cell.by_seed[NO_SEED if NO_SEED in cell.by_seed else seed]


def _num_resamples(points: Points) -> int:
    return len(next(iter(points[0][0].by_seed.values())).resampled)


def _curve(points: Points, seed: str, number: int | None = None) -> _Curve:
    """Ordered by the other metric.

    Args:
        number: of the resample; None: as measured.
    """
    pairs = [(_of_seed(x, seed), _of_seed(y, seed)) for y, x in points]
    places, heights = (
        np.array([each.value if number is None else each.resampled[number] for each in side])
        for side in zip(*pairs, strict=True)
    )
    order = np.argsort(places, kind="stable")
    return places[order], heights[order]


def _heights(first: _Curve, second: _Curve) -> tuple[float, float] | None:
    """Of both curves, None where they have no common range."""
    low, high = _range(first, second)
    return _mean_heights(first, second) if low < high else None


def _range(first: _Curve, second: _Curve) -> tuple[float, float]:
    return float(max(first[0][0], second[0][0])), float(min(first[0][-1], second[0][-1]))


def _mean_heights(first: _Curve, second: _Curve) -> tuple[float, float]:
    """Mean height of both curves between the ends of their common range.

    A resample may draw the curves apart, the ends change sides: each curve is then at its end that is next to the
    other, to which its height tends as the range shrinks to nothing.
    """
    wanted = np.linspace(*_range(first, second), _NUM_PLACES)
    above, below = (float(np.interp(wanted, *curve).mean()) for curve in (first, second))
    return above, below


def _measurement(points: Points, seed: str, value: float, resampled: _Array) -> Measurement:
    own = [_of_seed(y, seed) for y, _ in points]
    return Measurement(
        run=own[0].run,
        stage=own[0].stage,
        labels=own[0].labels,
        evaluation=own[0].evaluation,
        metric=own[0].metric,
        value=value,
        resampled=resampled,
        num_rows=min(each.num_rows for each in own),
    )
