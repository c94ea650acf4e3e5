"""Files and text that an experiment leaves: results.csv, results.json, one picture per plot."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gkd_dist.experiments.cells import METHOD, NO_SEED, Cell, cells
from gkd_dist.experiments.claims import Finding, Ranked, judge, rank
from gkd_dist.experiments.drawing import draw, pictures_of
from gkd_dist.experiments.measurements import Measurement
from gkd_dist.experiments.places import measured_places
from gkd_dist.experiments.series import panels, why_empty
from gkd_dist.experiments.spec import Experiment, Plot
from gkd_dist.runs.documents import replace_file

_COLUMNS = ("stage", "evaluation", "metric", "seed", "value", "low", "high", "num_rows", "run")
_CAVEATS = (
    "each claim by itself: nothing is corrected for their number, so of 20 without any truth one is decided by chance",
    "what exists once, such as the teacher, the initial students and what the teacher wrote, is taken as it is: "
    "another one could decide otherwise",
    "runs of a single shared seed decide nothing",
)
"""What the intervals of claims do not tell."""


def write_report(
    experiment: Experiment, measurements: Sequence[Measurement], folder: Path, facts: Mapping[str, Any]
) -> list[str]:
    """Write everything below `folder`; returns what a person wants to read, line by line.

    Pictures of plots that show nothing now are removed: they are of another selection.

    Args:
        facts: what goes to the top of results.json: runs, CPU time.
    """
    over_seeds = cells(measurements)
    findings = judge(experiment.claims, over_seeds, measured_places(experiment))
    tables = rank(experiment.rankings, over_seeds)
    shown = {name: panels(plot, experiment, over_seeds) for name, plot in experiment.plots.items()}
    _write_csv(folder / "results.csv", experiment, measurements, over_seeds)
    content = {
        "title": experiment.title,
        "intervals": METHOD,
        "caveats": _CAVEATS,
        **facts,
        "means": [_plain(cell) for cell in over_seeds],
        "claims": [asdict(finding) for finding in findings],
        "rankings": [_plain_table(table) for table in tables],
        "plots": {name: [asdict(panel) for panel in each] for name, each in shown.items()},
    }
    replace_file(folder / "results.json", json.dumps(content, indent=1) + "\n")
    files = [file for name, plot in experiment.plots.items() for file in draw(plot, shown[name], folder / name)]
    empty = {name: plot for name, plot in experiment.plots.items() if not shown[name]}
    lines = [*_ranking_lines(tables, experiment), *_claim_lines(findings), *_empty_lines(empty, over_seeds)]
    replace_file(folder / "results.txt", "".join(f"{line}\n" for line in lines))
    lines += [f"removed {file}: of a former report" for file in _remove(folder / name for name in empty)]
    return [*lines, *(f"wrote {file}" for file in (folder / "results.csv", folder / "results.json", *files))]


def _write_csv(
    path: Path, experiment: Experiment, measurements: Sequence[Measurement], over_seeds: Sequence[Cell]
) -> None:
    """One line for each metric of each run, without interval, and one with `seed` `mean` for each place."""
    axes = list(experiment.axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*axes, *_COLUMNS], restval="", extrasaction="ignore")
        writer.writeheader()
        for each in measurements:
            numbers = {"metric": each.metric, "value": each.value, "num_rows": each.num_rows, "run": each.run}
            writer.writerow({**each.place, "seed": each.seed, **numbers})
        for cell in over_seeds:
            found = cell.interval
            numbers = {"metric": cell.metric, "value": found.value, "low": found.low, "high": found.high}
            writer.writerow({**cell.place, "seed": "mean", "num_rows": cell.num_rows, **numbers})


def _ranking_lines(tables: Sequence[Ranked], experiment: Experiment) -> list[str]:
    lines = []
    for table in tables:
        lines.append(f"{table.title}{_at(table.place)}: {table.metric}, {METHOD}")
        for cell in table.cells:
            found, seeds = cell.interval, len(cell.by_seed.keys() - {NO_SEED})
            lines.append(
                f"  {found.value:z8.3f} [{found.low:z.3f}, {found.high:z.3f}]  {_name(cell, table.place, experiment)}"
                f"  ({_seeds(seeds)})"
            )
    return lines


def _claim_lines(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    pairs = "differences paired by seed, and by row where both sides are of the same rows"
    lines = [f"claims: {pairs}; {METHOD}", *(f"  ({text})" for text in _CAVEATS)]
    for each in findings:
        detail = ""
        if each.difference is not None:
            low, high = each.difference.low, each.difference.high
            detail = (
                f": {each.metric} {each.above:z.3f} against {each.below:z.3f}, "
                f"difference {each.difference.value:+z.3f} [{low:+z.3f}, {high:+z.3f}], {_seeds(each.num_seeds)}"
            )
        lines.append(f"  {each.verdict:10} {each.text}{_at(each.place)}{detail}")
    return lines


def _empty_lines(empty: Mapping[str, Plot], over_seeds: Sequence[Cell]) -> list[str]:
    lines = [
        f"  {'not drawn':12} {name}: {plot.title}: {why_empty(plot, over_seeds)} is measured"
        for name, plot in empty.items()
    ]
    return ["plots:", *lines] if lines else []


def _remove(plots: Iterable[Path]) -> list[Path]:
    """Pictures that were there."""
    files = [file for plot in plots for file in pictures_of(plot) if file.is_file()]
    for file in files:
        file.unlink()
    return files


def _seeds(number: int) -> str:
    """What an interval tells of: 0 where there is nothing over seeds, only rows."""
    return "one run" if number == 0 else f"{number} seed{'s' if number > 1 else ''}"


def _name(cell: Cell, place: Mapping[str, str], experiment: Experiment) -> str:
    """What tells a cell from the others of its table."""
    labels = [
        experiment.title_of(axis, label)
        for axis, label in cell.place.items()
        if axis not in place and axis not in ("stage", "evaluation")
    ]
    return ", ".join(labels) or cell.place["stage"]


def _at(place: Mapping[str, str]) -> str:
    return f" ({', '.join(f'{axis} {label}' for axis, label in place.items())})" if place else ""


def _plain(cell: Cell) -> dict[str, Any]:
    found = cell.interval
    return {
        **cell.place,
        "metric": cell.metric,
        **asdict(found),
        "num_rows": cell.num_rows,
        "by_seed": {seed: each.value for seed, each in cell.by_seed.items()},
    }


def _plain_table(table: Ranked) -> dict[str, Any]:
    place = dict(table.place)
    return {"title": table.title, "place": place, "rows": [_plain(cell) for cell in table.cells]}
