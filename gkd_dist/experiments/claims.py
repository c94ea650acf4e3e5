"""Who is above whom: orderings tested on differences, and everything in order, best first."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gkd_dist.experiments.cells import Cell, Interval, difference
from gkd_dist.experiments.frontier import Points, at_equal
from gkd_dist.experiments.plan import matches
from gkd_dist.experiments.spec import Claim, Ranking

Verdict = Literal["holds", "reversed", "undecided", "not measured", "ambiguous", "apart"]
"""`holds`: the whole confidence interval of the difference is above 0; `reversed`: below. `undecided`: neither, or of
runs with seeds a single one is shared. `ambiguous`: a side of the claim selects several places. `apart`: two curves
have no value of `x_metric` in common."""


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


def judge(claims: Sequence[Claim], cells: Sequence[Cell]) -> list[Finding]:
    """Each claim at every place of its `per` where one side was measured."""
    return [finding for claim in claims for finding in _findings(claim, cells)]


def rank(rankings: Sequence[Ranking], cells: Sequence[Cell]) -> list[Ranked]:
    """Each ranking at every place of its `per`."""
    tables = []
    for ranking in rankings:
        wanted = [cell for cell in cells if cell.metric == ranking.metric and matches(ranking.where, cell.place)]
        for place, group in _by_place(wanted, ranking.per).items():
            ordered = tuple(sorted(group, key=lambda cell: -cell.value))
            tables.append(Ranked(ranking.title, ranking.metric, dict(place), ordered))
    return tables


def _findings(claim: Claim, cells: Sequence[Cell]) -> Iterator[Finding]:
    wanted = [cell for cell in cells if cell.metric == claim.metric and matches(claim.where, cell.place)]
    sides = [[cell for cell in wanted if matches(side, cell.place)] for side in (claim.above, claim.below)]
    above, below = (_by_place(side, claim.per) for side in sides)
    # A side without an axis of `per` (one teacher for all students) is the same at every place.
    places = [place for place in dict.fromkeys([*above, *below]) if place] or [()]
    for place in places:
        first, second = (side.get(place) or side.get(()) for side in (above, below))
        if claim.x is not None and first and second:
            both = at_equal(_points(claim, first, cells), _points(claim, second, cells))
            if both is None:
                yield Finding(claim.text, claim.metric, dict(place), "apart")
                continue
            first, second = [both[0]], [both[1]]
        if len(first or ()) > 1 or len(second or ()) > 1:
            yield Finding(claim.text, claim.metric, dict(place), "ambiguous")
        elif first and second:
            yield _finding(claim, dict(place), first[0], second[0])
        else:
            yield Finding(claim.text, claim.metric, dict(place), "not measured")


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
