"""What plots, rankings and claims mention: axes, labels, evaluations and metrics that must be there.

A label that a scale or the command line has taken away (`Experiment.left_out`) may be mentioned still: what is not
run is not measured, and reports say so.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gkd_dist.config.evaluation import TASKS, TaskName
from gkd_dist.errors import ConfigError
from gkd_dist.evaluation.names import OF_RUN, OF_TASK, is_figure
from gkd_dist.experiments.places import HELD_OUT, evaluation_titles
from gkd_dist.experiments.spec import SEED, Claim, Experiment, Plot, Ranking, Selection
from gkd_dist.experiments.texts import fill


def mention_problems(experiment: Experiment) -> list[str]:
    """One line for each name that nothing is known of."""
    known = _Known(experiment)
    problems: list[str] = []
    for name, plot in experiment.plots.items():
        problems += _of_plot(plot, f"plots.{name}", known)
    for number, ranking in enumerate(experiment.rankings):
        problems += _of_ranking(ranking, f"rankings.{number}", known)
    for number, claim in enumerate(experiment.claims):
        problems += _of_claim(claim, f"claims.{number}", known)
    return list(dict.fromkeys(problems))


class _Known:
    """What may be mentioned."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._evaluations = {
            title: evaluation
            for name, evaluation in experiment.evaluations.items()
            for title in evaluation_titles(name, evaluation)
        }
        self._labels: dict[str, list[str]] = {
            axis: [*values, *experiment.left_out.get(axis, ())] for axis, values in experiment.axes.items()
        }
        self._labels |= {"stage": list(experiment.stages), "evaluation": [*self._evaluations, HELD_OUT]}

    def axes(self, names: Mapping[str, str | None]) -> Iterator[str]:
        """
        Args:
            names: of axes, by the key that mentions them; None: it mentions none.
        """
        for key, axis in names.items():
            if axis is not None and axis not in self._labels and axis != SEED:
                yield f"{key}: no axis is called {axis}; {_hint(axis, [*self._labels, SEED])}"

    def labels(self, key: str, axis: str, labels: Iterable[str]) -> Iterator[str]:
        """Of an axis that is there; the labels of seeds are numbers, which the command line may change."""
        for label in labels:
            if axis == SEED and not label.isdecimal():
                yield f"{key}: a seed is a number, got {label}"
            elif axis in self._labels and label not in self._labels[axis]:
                yield f"{key}: {axis} has no label {label}; {_hint(label, self._labels[axis])}"

    def selection(self, key: str, selection: Selection | None) -> Iterator[str]:
        for axis, wanted in (selection or {}).items():
            yield from self.axes({f"{key}.{axis}": axis})
            yield from self.labels(f"{key}.{axis}", axis, _all_of(wanted))

    def metric(self, key: str, metric: str | None, *selections: Selection) -> Iterator[str]:
        """
        Args:
            selections: which evaluations are looked at; all where none of them says it.
        """
        wanted = [_all_of(each["evaluation"]) for each in selections if "evaluation" in each]
        names = [name for each in wanted for name in each] or self._labels["evaluation"]
        tasks = [self._task(name) for name in names if name in self._evaluations]
        has_run = HELD_OUT in names
        if metric is None or not (tasks or has_run) or None in tasks:
            return
        if (has_run and metric in OF_RUN) or any(task is not None and is_figure(metric, task) for task in tasks):
            return
        there = [name for task in dict.fromkeys(tasks) if task is not None for name in OF_TASK[task]]
        there += OF_RUN if has_run else ()
        yield f"{key}: no metric of {', '.join(names)} is called {metric}; {_hint(metric, list(dict.fromkeys(there)))}"

    def _task(self, name: str) -> TaskName | None:
        """None: a text that cannot be known yet."""
        try:
            task = fill(self._evaluations[name].task, self._experiment.settings)
        except ConfigError:
            return None
        return next((each for each in TASKS if each == task), None)


def _of_plot(plot: Plot, key: str, known: _Known) -> Iterator[str]:
    yield from known.axes({f"{key}.x": plot.x, f"{key}.series": plot.series, f"{key}.panels": plot.panels})
    for name, selection in (("where", plot.where), ("relative_to", plot.relative_to), ("reference", plot.reference)):
        yield from known.selection(f"{key}.{name}", selection)
    yield from known.labels(f"{key}.x_values", plot.x, plot.x_values)
    yield from known.metric(f"{key}.metric", plot.metric, plot.where)
    yield from known.metric(f"{key}.x_metric", plot.x_metric, plot.where)


def _of_ranking(ranking: Ranking, key: str, known: _Known) -> Iterator[str]:
    yield from known.axes({f"{key}.per.{number}": axis for number, axis in enumerate(ranking.per)})
    yield from known.selection(f"{key}.where", ranking.where)
    yield from known.metric(f"{key}.metric", ranking.metric, ranking.where)


def _of_claim(claim: Claim, key: str, known: _Known) -> Iterator[str]:
    per = {f"{key}.per.{number}": axis for number, axis in enumerate(claim.per)}
    yield from known.axes({**per, f"{key}.x": claim.x})
    sides = {"where": claim.where, "above": claim.above, "below": claim.below}
    for name, selection in sides.items():
        yield from known.selection(f"{key}.{name}", selection)
    yield from known.metric(f"{key}.metric", claim.metric, *sides.values())
    yield from known.metric(f"{key}.x_metric", claim.x_metric, *sides.values())


def _all_of(wanted: str | Sequence[str]) -> Sequence[str]:
    return (wanted,) if isinstance(wanted, str) else wanted


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
