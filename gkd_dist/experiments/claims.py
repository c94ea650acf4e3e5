"""Who is above whom: orderings tested on differences, and everything in order, best first."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gkd_dist.experiments.cells import Cell, Interval, difference
from gkd_dist.experiments.frontier import Points, at_equal, shared_seeds
from gkd_dist.experiments.places import HELD_OUT, matches
from gkd_dist.experiments.spec import Claim, Ranking, Selection

Verdict = Literal["holds", "reversed", "undecided", "not measured", "ambiguous", "apart"]
"""`holds`: the whole confidence interval of the difference is above 0; `reversed`: below. `undecided`: neither, or of
runs with seeds a single one is shared. `ambiguous`: a side of the claim selects several places, or several curves.
`apart`: two curves have no value of `x_metric` in common. `not measured`: a side, a point of a curve, or any seed that
both sides have is not there yet."""


@dataclass(frozen=True)
class Finding:
    """A claim at one place."""

    text: str
    metric: str
    place: Mapping[str, str]
    verdict: Verdict
    above: float | None = None
    below: float | None = None
    difference: Interval | None = None
    num_seeds: int = 0
    """That both sides have; 0 where both exist once."""
    num_rows: int = 0


@dataclass(frozen=True)
class Ranked:
    """One table of a ranking."""

    title: str
    metric: str
    place: Mapping[str, str]
    cells: tuple[Cell, ...]
    """The highest first."""


def judge(
    claims: Sequence[Claim], cells: Sequence[Cell], planned: Sequence[Mapping[str, str]] | None = None
) -> list[Finding]:
    """Each claim at every place of its `per` where one side was measured.

    Args:
        planned: `places.measured_places`, which say what points a curve will have; None: those that either side has.
    """
    return [finding for claim in claims for finding in _findings(claim, cells, planned)]


def rank(rankings: Sequence[Ranking], cells: Sequence[Cell]) -> list[Ranked]:
    """Each ranking at every place of its `per`."""
    tables = []
    for ranking in rankings:
        wanted = [cell for cell in cells if cell.metric == ranking.metric and matches(ranking.where, cell.place)]
        for place, group in _by_place(wanted, ranking.per).items():
            ordered = tuple(sorted(group, key=lambda cell: -cell.value))
            tables.append(Ranked(ranking.title, ranking.metric, dict(place), ordered))
    return tables


def _findings(claim: Claim, cells: Sequence[Cell], planned: Sequence[Mapping[str, str]] | None) -> Iterator[Finding]:
    wanted = [cell for cell in cells if cell.metric == claim.metric and matches(claim.where, cell.place)]
    sides = [[cell for cell in wanted if matches(side, cell.place)] for side in (claim.above, claim.below)]
    above, below = (_by_place(side, claim.per) for side in sides)
    # A side without an axis of `per` (one teacher for all students) is the same at every place.
    places = [place for place in dict.fromkeys([*above, *below]) if place] or [()]
    for place in places:
        first, second = (side.get(place) or side.get(()) or [] for side in (above, below))
        if claim.x is not None:
            yield _finding_of_curves(claim, claim.x, dict(place), (first, second), cells, planned)
        elif len(first) > 1 or len(second) > 1:
            yield Finding(claim.text, claim.metric, dict(place), "ambiguous")
        elif first and second:
            yield _finding(claim, dict(place), first[0], second[0])
        else:
            yield Finding(claim.text, claim.metric, dict(place), "not measured")


def _finding_of_curves(
    claim: Claim,
    x: str,
    place: Mapping[str, str],
    sides: tuple[Sequence[Cell], Sequence[Cell]],
    cells: Sequence[Cell],
    planned: Sequence[Mapping[str, str]] | None,
) -> Finding:
    if any(_is_mixed(side, x) for side in sides):
        return Finding(claim.text, claim.metric, place, "ambiguous")
    if planned is None:
        wanted = [_labels(sides[0], x) | _labels(sides[1], x)] * 2
    else:
        wanted = [
            _planned_labels(claim, selection, side, x, planned)
            for selection, side in zip((claim.above, claim.below), sides, strict=True)
        ]
    above, below = (_points(claim, side, cells) for side in sides)
    is_whole = all(
        labels <= _labels([cell for cell, _ in points], x)
        for labels, points in zip(wanted, (above, below), strict=True)
    )
    if not (above and below and is_whole and shared_seeds(above, below)):
        return Finding(claim.text, claim.metric, place, "not measured")
    both = at_equal(above, below)
    return Finding(claim.text, claim.metric, place, "apart") if both is None else _finding(claim, place, *both)


def _labels(side: Iterable[Cell], x: str) -> set[str | None]:
    return {cell.place.get(x) for cell in side}


def _fixed(side: Sequence[Cell], x: str) -> set[tuple[str, str]]:
    """Where a curve is on the other axes; its points may be of several stages."""
    return {(axis, label) for cell in side for axis, label in cell.place.items() if axis not in (x, "stage")}


def _is_mixed(side: Sequence[Cell], x: str) -> bool:
    """Whether these are the points of more than one curve, perhaps of none of them all."""
    fixed = _fixed(side, x)
    return len(_labels(side, x)) < len(side) or len({axis for axis, _ in fixed}) < len(fixed)


def _planned_labels(
    claim: Claim, selection: Selection, side: Sequence[Cell], x: str, planned: Sequence[Mapping[str, str]]
) -> set[str | None]:
    """Those of the points that the curve of `side` is to have, without what its experiment leaves out."""
    fixed = dict(_fixed(side, x))
    own = [each for each in planned if x in each and matches(claim.where, each) and matches(selection, each)]
    own = [each for each in own if each[x] != HELD_OUT]  # no point of a curve over evaluations
    return {each[x] for each in own if all(each.get(axis, label) == label for axis, label in fixed.items())}


def _points(claim: Claim, curve: Sequence[Cell], cells: Sequence[Cell]) -> Points:
    """Each cell with that of the other metric at its place; without those that lack it."""
    found = []
    for cell in curve:
        found += [(cell, other) for other in cells if other.metric == claim.x_metric and other.place == cell.place]
    return found


def _finding(claim: Claim, place: Mapping[str, str], above: Cell, below: Cell) -> Finding:
    found = difference(above, below)
    if found is None:
        return Finding(claim.text, claim.metric, place, "not measured")
    verdict: Verdict = "undecided"
    if found.tells and found.interval.low > 0:
        verdict = "holds"
    elif found.tells and found.interval.high < 0:
        verdict = "reversed"
    return Finding(
        text=claim.text,
        metric=claim.metric,
        place=place,
        verdict=verdict,
        above=found.above,
        below=found.below,
        difference=found.interval,
        num_seeds=len(found.seeds),
        num_rows=min(above.num_rows, below.num_rows),
    )


def _by_place(cells: Sequence[Cell], per: Sequence[str]) -> dict[tuple[tuple[str, str], ...], list[Cell]]:
    groups: dict[tuple[tuple[str, str], ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[tuple((axis, cell.place[axis]) for axis in per if axis in cell.place)].append(cell)
    return groups
