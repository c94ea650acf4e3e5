"""What is drawn: numbers of runs as charts for the page's script, which knows nothing of runs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from gkd_dist.reports.numbers import RATES, number
from gkd_dist.reports.run_view import RunView

MAX_POINTS = 600
"""Of one line; more steps are averaged, so that a page stays small."""
_SMOOTHED_FROM = 30
"""Points from which a smoothed line lies over the raw one."""


@dataclass(frozen=True)
class Line:
    """One curve; null is a gap."""

    name: str
    colour: int
    """Which of the page's colours; runs and roles keep theirs over all charts."""
    x: list[float]
    y: list[float | None]
    smooth: list[float | None] = field(default_factory=list)
    """Of `y`; empty for short lines."""


@dataclass(frozen=True)
class Chart:
    """One picture: `lines` over a number, or `bars` over categories."""

    id: str
    title: str
    unit: str
    x_label: str
    note: str = ""
    lines: list[Line] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    bars: list[Line] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    """Vertical lines: where another attempt goes on."""

    def says_something(self) -> bool:
        """Whether there is more to see than zeros, or a single point (a loss alone is worth a picture)."""
        values = [value for line in [*self.lines, *self.bars] for value in line.y if value is not None]
        return any(values) and (len(values) > 1 or bool(self.bars) or self.id == "loss")

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def charts(runs: Sequence[RunView]) -> list[Chart]:
    """Those that any run has numbers for."""
    note = _averaged(runs)
    found = [
        _by_step(runs, "loss", "Loss", "nats", ("loss",), note),
        _by_step(runs, "gap", "Gap between sampler and learner", "nats", ("behaviour_gap_mean_nats",), note),
        _by_step(runs, "reward", "Mean reward of the student's answers", "", ("reward_mean",), note),
        _by_step(runs, "mass", "Teacher's probability in its top K", "", ("teacher_mass",), note),
        _by_step(
            runs, "golden", "Teacher's answers to golden sequences: largest gap", "nats", ("teacher_golden_gap_nats",)
        ),
        _divergences(runs),
        *_throughput(runs, note),
        _by_step(runs, "step_s", "Time of a step", "s", ("step_s",), note),
        _by_step(runs, "grad_norm", "Gradient norm, before clipping", "", ("grad_norm",), note),
        _by_step(runs, "queue", "Scored sequences that wait", "sequences", ("queue_depth",), note),
        _staleness(runs),
    ]
    return [chart for chart in found if chart.says_something()]


def _by_step(runs: Sequence[RunView], id: str, title: str, unit: str, keys: Sequence[str], note: str = "") -> Chart:
    lines = [
        line for index, run in enumerate(runs) for key in keys if (line := _line(run, key, run.name, index)) is not None
    ]
    return Chart(id, title, unit, "train step", note, lines=lines, marks=_resumed(runs))


def _throughput(runs: Sequence[RunView], note: str) -> list[Chart]:
    """One picture with a line per role, or one per role where runs are compared."""
    if len(runs) > 1:
        return [
            _by_step(runs, f"throughput-{role}", f"Throughput, {role}", "tokens/s", (f"{moved}_tokens_per_s",), note)
            for role, moved in RATES.items()
        ]
    lines = [
        line
        for index, (role, moved) in enumerate(RATES.items())
        if (line := _line(runs[0], f"{moved}_tokens_per_s", role, index)) is not None
    ]
    marks = _resumed(runs)
    return [Chart("throughput", "Throughput per role", "tokens/s", "train step", note, lines=lines, marks=marks)]


def _divergences(runs: Sequence[RunView]) -> Chart:
    """Held-out divergences before and after training."""
    kinds = {
        "on_policy/forward_kl_nats": "forward KL",
        "on_policy/reverse_kl_nats": "reverse KL",
        "on_policy/objective_nats": "objective",
        "reference/forward_kl_nats": "forward KL, references",
        "reference/nll_nats": "NLL, references",
    }
    texts = {"before": "before training", "after": "after training"}
    bars: list[Line] = []
    for index, run in enumerate(runs):
        for when, label in texts.items():
            figures = run.summary.get(when)
            figures = figures if isinstance(figures, dict) else {}
            name = label if len(runs) == 1 else f"{run.name}, {label}"
            colour = len(bars) if len(runs) == 1 else index
            bars.append(Line(name, colour, [], [number(figures.get(key)) for key in kinds]))
    shown = [at for at in range(len(kinds)) if any(bar.y[at] is not None for bar in bars)]
    objective = list(kinds).index("on_policy/objective_nats")
    if any(all(bar.y[at] == bar.y[objective] for bar in bars) for at in shown if at < objective):
        shown.remove(objective)  # it is one of the others
    labels = list(kinds.values())
    return Chart(
        "divergence",
        "Held-out divergence from the teacher",
        "nats per token",
        "",
        categories=[labels[at] for at in shown],
        bars=[Line(bar.name, bar.colour, [], [bar.y[at] for at in shown]) for bar in bars],
    )


def _staleness(runs: Sequence[RunView]) -> Chart:
    largest = max((max(run.staleness) for run in runs if run.staleness), default=-1)
    return Chart(
        "staleness",
        "Staleness of the student's sequences",
        "sequences",
        "train steps between its oldest weights and its training",
        categories=[str(value) for value in range(largest + 1)],
        bars=[
            Line(run.name, index, [], [float(run.staleness[value]) for value in range(largest + 1)])
            for index, run in enumerate(runs)
            if run.staleness
        ],
    )


def _line(run: RunView, key: str, name: str, colour: int) -> Line | None:
    """None where no step has the key."""
    points = [(float(record["step"]), number(record.get(key))) for record in run.records if key in record]
    if not points:
        return None
    x, y = _thinned(points)
    smooth = _smoothed(y) if len(y) >= _SMOOTHED_FROM else []
    return Line(name, colour, x, y, smooth)


def _thinned(points: Sequence[tuple[float, float | None]]) -> tuple[list[float], list[float | None]]:
    """At most `MAX_POINTS`: means of as many neighbours as that takes."""
    width = -(-len(points) // MAX_POINTS)
    x, y = [], []
    for start in range(0, len(points), width):
        part = points[start : start + width]
        values = [value for _, value in part if value is not None]
        x.append(part[0][0] if width == 1 else sum(step for step, _ in part) / len(part))
        y.append(_rounded(sum(values) / len(values)) if values else None)
    return x, y


def _smoothed(values: Sequence[float | None]) -> list[float | None]:
    """Exponential means from both ends, over about a twentieth of the line: one alone would lag behind. Gaps stay."""
    pairs = zip(_running_mean(values), reversed(_running_mean(values[::-1])), strict=True)
    return [None if one is None or other is None else _rounded((one + other) / 2) for one, other in pairs]


def _running_mean(values: Sequence[float | None]) -> list[float | None]:
    keep, mean, weight = 1 - 1 / max(2.0, len(values) / 20), 0.0, 0.0
    smooth: list[float | None] = []
    for value in values:
        if value is None:
            smooth.append(None)
            continue
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append(mean / weight)
    return smooth


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _resumed(runs: Sequence[RunView]) -> list[tuple[float, str]]:
    """Steps at which another attempt goes on; nothing where runs are compared."""
    if len(runs) > 1:
        return []
    records = runs[0].records
    return [
        (float(record["step"]), f"attempt {record['attempt']}")
        for former, record in pairwise(records)
        if record.get("attempt") != former.get("attempt")
    ]


def _averaged(runs: Sequence[RunView]) -> str:
    width = max((-(-len(run.records) // MAX_POINTS) for run in runs), default=1)
    return f"each point is the mean of {width} steps" if width > 1 else ""
