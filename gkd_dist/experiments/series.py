"""What a plot shows, as numbers: panels of lines of points with confidence intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gkd_dist.experiments.cells import Cell, Interval, difference
from gkd_dist.experiments.places import matches
from gkd_dist.experiments.spec import Experiment, Plot, Selection


@dataclass(frozen=True)
class Point:
    """One mark of a plot."""

    label: str
    x: float
    y: Interval
    across: Interval | None = None
    """Of `x_metric`, in every point of a frontier; `x` is its value then."""


@dataclass(frozen=True)
class Line:
    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    label: str
    lines: tuple[Line, ...]
    reference: float | None


def panels(plot: Plot, experiment: Experiment, cells: Sequence[Cell]) -> list[Panel]:
    """Everything of `cells` that the plot selects, in the order of the axes; places that were not measured are left
    out."""
    wanted = [cell for cell in cells if cell.metric == plot.metric and matches(plot.where, cell.place)]
    shown = []
    for panel in _labels(plot.panels, experiment, wanted):
        inside = [cell for cell in wanted if plot.panels is None or cell.place.get(plot.panels) == panel]
        lines = []
        for name in _labels(plot.series, experiment, inside):
            own = [cell for cell in inside if plot.series is None or cell.place.get(plot.series) == name]
            points = _points(plot, experiment, own, cells)
            if points:
                lines.append(Line(experiment.title_of(plot.series or "", name), tuple(points)))
        if lines:
            title = experiment.title_of(plot.panels or "", panel)
            shown.append(Panel(title, tuple(lines), _reference(plot, panel, cells)))
    return shown


def why_empty(plot: Plot, cells: Sequence[Cell]) -> str:
    """What a plot without panels lacks: nothing of it is measured, or nothing of it is selected."""
    if not any(cell.metric == plot.metric and matches(plot.where, cell.place) for cell in cells):
        return f"no {plot.metric} of what it shows"
    lacks = "what it is relative to" if plot.relative_to is not None else "its x"
    return f"no {plot.x_metric} at the same places" if plot.x_metric is not None else f"no {plot.metric} of {lacks}"


def _points(plot: Plot, experiment: Experiment, own: Sequence[Cell], cells: Sequence[Cell]) -> list[Point]:
    points = []
    for number, label in enumerate(_labels(plot.x, experiment, own)):
        for cell in (cell for cell in own if cell.place.get(plot.x) == label):
            y = _relative(plot, cell, cells)
            title = experiment.title_of(plot.x, label)
            if y is None:
                continue
            if plot.x_metric is None:
                points.append(Point(title, _place_of(plot, experiment, label, number), y))
                continue
            other = next((each for each in cells if each.metric == plot.x_metric and each.place == cell.place), None)
            if other is not None:
                points.append(Point(title, other.value, y, other.interval))
    if plot.kind == "lines":
        points.sort(key=lambda point: point.x)
    return points


def _place_of(plot: Plot, experiment: Experiment, label: str, number: int) -> float:
    """Where a label is on the horizontal axis."""
    if label in plot.x_values:
        return plot.x_values[label]
    value = experiment.axes.get(plot.x, {}).get(label)
    if value is not None and isinstance(value.value, int | float):
        return float(value.value)
    try:
        return float(label)
    except ValueError:
        return float(number)


def _relative(plot: Plot, cell: Cell, cells: Sequence[Cell]) -> Interval | None:
    """The cell, or its difference to what the plot is relative to; None where that was not measured."""
    if plot.relative_to is None:
        return cell.interval
    base = _at_place_of(cell.place, plot.relative_to, plot.metric, cells)
    found = None if base is None else difference(cell, base)
    return None if found is None else found.interval


def _at_place_of(place: Mapping[str, str], selection: Selection, metric: str, cells: Sequence[Cell]) -> Cell | None:
    """What `selection` names, where the axes that both have agree."""
    for cell in cells:
        shared = [key for key in cell.place if key in place and key not in selection and key != "stage"]
        if (
            cell.metric == metric
            and matches(selection, cell.place)
            and all(cell.place[key] == place[key] for key in shared)
        ):
            return cell
    return None


def _reference(plot: Plot, panel: str, cells: Sequence[Cell]) -> float | None:
    if plot.reference is None:
        return None
    place = {**{key: label for key, label in plot.where.items() if isinstance(label, str)}}
    if plot.panels is not None:
        place[plot.panels] = panel
    cell = _at_place_of(place, plot.reference, plot.metric, cells)
    return None if cell is None else cell.value


def _labels(axis: str | None, experiment: Experiment, cells: Sequence[Cell]) -> list[str]:
    """Those of an axis that occur, in the order of the axis; one empty label where there is no axis."""
    if axis is None:
        return [""]
    occurring = dict.fromkeys(cell.place[axis] for cell in cells if axis in cell.place)
    order = list(experiment.axes.get(axis, {}))
    return sorted(occurring, key=lambda label: order.index(label) if label in order else len(order))
