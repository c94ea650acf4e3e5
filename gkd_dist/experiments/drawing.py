"""Plots as SVG and PNG files, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gkd_dist.experiments.series import Line, Panel
from gkd_dist.experiments.spec import Plot

if TYPE_CHECKING:
    from gkd_dist.experiments.gaussian_fit import Curve, Fitted

_PANEL_INCHES = (4.6, 3.4)
_BAR_INCHES = 0.3
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#999999",
    "#8c564b",
    "#9467bd",
)
"""Told apart by colour-blind readers too (Okabe and Ito); then some more."""


def draw(plot: Plot, panels: Sequence[Panel], path: Path) -> list[Path]:
    """Write `path` with the endings .svg and .png; returns both. Nothing is written where there is no panel."""
    if not panels:
        return []
    most_bars = max(len(_labels(panel)) * len(panel.lines) for panel in panels) if plot.kind == "bars" else 0
    width = max(_PANEL_INCHES[0], _BAR_INCHES * most_bars)
    figure, axes = _canvas(len(panels), (width, _PANEL_INCHES[1]))
    for panel, axis in zip(panels, axes, strict=True):
        _KINDS[plot.kind](plot, panel, axis, figure)
        axis.set_title(panel.label, fontsize=9)
    if plot.kind != "grid":
        axes[0].set_ylabel(_quantity(plot))
    figure.suptitle(plot.title, fontsize=11)
    if plot.kind != "grid" and (len(panels[0].lines) > 1 or panels[0].reference is not None):
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return _save(figure, path)


def draw_fit(title: str, curves: "Sequence[Curve]", fitted: "Sequence[Fitted]", path: Path) -> list[Path]:
    """The mixture as an area, and each Gaussian over it."""
    figure, (axis,) = _canvas(1, (6.4, 3.8))
    mixture, *others = curves
    axis.fill_between(mixture.x, mixture.density, color="#cccccc", label="P: the mixture")
    for number, (curve, each) in enumerate(zip(others, fitted, strict=True)):
        label = f"{_NAMES.get(each.divergence, each.divergence)}: {each.nats:.3f} nats"
        style = ("-", "--", "-.", ":", (0, (5, 1)))[number % 5]
        axis.plot(curve.x, curve.density, color=_COLOURS[number % len(_COLOURS)], linestyle=style, label=label)
    axis.set(xlabel="x", ylabel="density", ylim=(0, None))
    axis.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


_NAMES = {"forward_kl": "forward KL(P||Q)", "reverse_kl": "reverse KL(Q||P)"}


def _bars(plot: Plot, panel: Panel, axis: Any, figure: Any) -> None:  # noqa: ARG001 - one signature for all kinds
    labels = _labels(panel)
    width = 0.8 / len(panel.lines)
    for number, line in enumerate(panel.lines):
        shift = (number - (len(panel.lines) - 1) / 2) * width
        places = [labels.index(point.label) + shift for point in line.points]
        axis.bar(places, _values(line), width, yerr=_errors(line), label=line.label, color=_colour(number), capsize=2)
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(labels) > 4 else {}
    axis.set_xticks(range(len(labels)), labels, fontsize=8, **slanted)
    if plot.relative_to is not None:
        axis.axhline(0, color="black", linewidth=0.6)
    _reference(panel, axis)


def _lines(plot: Plot, panel: Panel, axis: Any, figure: Any) -> None:  # noqa: ARG001
    for number, line in enumerate(panel.lines):
        places = [point.x for point in line.points]
        axis.errorbar(
            places, _values(line), yerr=_errors(line), label=line.label, color=_colour(number), marker="o", capsize=2
        )
    axis.set_xlabel(plot.x_title or plot.x)
    places = sorted({point.x for line in panel.lines for point in line.points})
    if places and places[0] > 0 and places[-1] / places[0] >= 10:
        axis.set_xscale("log")
    _reference(panel, axis)


def _frontier(plot: Plot, panel: Panel, axis: Any, figure: Any) -> None:  # noqa: ARG001
    for number, line in enumerate(panel.lines):
        places = [point.x for point in line.points]
        across = [(point.x, point.across) for point in line.points if point.across is not None]
        widths = [[max(0.0, x - each.low) for x, each in across], [max(0.0, each.high - x) for x, each in across]]
        style = {"marker": "o", "markersize": 4, "capsize": 2, "elinewidth": 0.7}
        bars = {"xerr": widths if across else None, "yerr": _errors(line)}
        axis.errorbar(places, _values(line), **bars, **style, label=line.label, color=_colour(number))
        for point in line.points:
            axis.annotate(point.label, (point.x, point.y.value), fontsize=6, xytext=(3, 3), textcoords="offset points")
    axis.set_xlabel(f"{plot.x_metric} (points joined in the order of {plot.x})")  # not that of a claim's curve


def _grid(plot: Plot, panel: Panel, axis: Any, figure: Any) -> None:
    columns = _labels(panel)
    values = {(line.label, point.label): point.y.value for line in panel.lines for point in line.points}
    rows = [line.label for line in panel.lines]
    table = [[values.get((row, column), float("nan")) for column in columns] for row in rows]
    image = axis.imshow(table, cmap="viridis", aspect="auto")
    middle = (min(values.values()) + max(values.values())) / 2
    for (row, column), value in values.items():
        place = (columns.index(column), rows.index(row))
        colour = "white" if value < middle else "black"
        axis.annotate(f"{value:.2f}", place, ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_xlabel(plot.x_title or plot.x)
    figure.colorbar(image, ax=axis, label=_quantity(plot))


_KINDS = {"bars": _bars, "lines": _lines, "frontier": _frontier, "grid": _grid}


def _reference(panel: Panel, axis: Any) -> None:
    if panel.reference is not None:
        axis.axhline(panel.reference, color="black", linestyle="--", linewidth=0.8, label="teacher")


def _labels(panel: Panel) -> list[str]:
    return list(dict.fromkeys(point.label for line in panel.lines for point in line.points))


def _values(line: Line) -> list[float]:
    return [point.y.value for point in line.points]


def _errors(line: Line) -> list[list[float]]:
    """Lengths of the bars below and above; a percentile interval need not hold its point."""
    below = [max(0.0, point.y.value - point.y.low) for point in line.points]
    above = [max(0.0, point.y.high - point.y.value) for point in line.points]
    return [below, above]


def _quantity(plot: Plot) -> str:
    return plot.metric if plot.relative_to is None else f"difference in {plot.metric}"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _canvas(num_panels: int, inches: tuple[float, float] = _PANEL_INCHES) -> tuple[Any, Sequence[Any]]:
    """A figure that belongs to no window, and its axes from left to right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(inches[0] * num_panels, inches[1]), layout="constrained")
    axes = figure.subplots(1, num_panels, squeeze=False, sharey=False)
    return figure, list(axes[0])


def pictures_of(path: Path) -> list[Path]:
    """What `draw` writes."""
    return [path.with_name(f"{path.name}.{ending}") for ending in ("svg", "png")]


def _save(figure: Any, path: Path) -> list[Path]:
    """The same numbers give the same bytes."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    files = pictures_of(path)
    with matplotlib.rc_context({"svg.hashsalt": "gkd", "svg.fonttype": "none"}):
        figure.savefig(files[0], metadata={"Date": None})
    figure.savefig(files[1], dpi=110)
    return files
