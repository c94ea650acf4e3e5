"""Where an experiment measures: labels of its axes, stages and evaluations, and selections among them."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from gkd_dist.experiments.spec import SEED, Evaluation, Experiment, Selection, Stage

HELD_OUT = "held-out"
"""What the evaluation is called that is a part of a run."""


def matches(selection: Selection, row: Mapping[str, Any]) -> bool:
    """Whether `row` has, for each key, the label or one of the labels that are selected."""
    return all(
        str(row.get(key)) in ((wanted,) if isinstance(wanted, str) else wanted) for key, wanted in selection.items()
    )


def places_of(experiment: Experiment, stage: Stage) -> Iterator[dict[str, str]]:
    """Every combination of the axes of a stage, `seed` among them, the last axis moving fastest."""
    ranges = [
        [str(seed) for seed in experiment.seeds] if axis == SEED else list(experiment.axes[axis]) for axis in stage.over
    ]
    for combination in itertools.product(*ranges):
        labels = dict(zip(stage.over, combination, strict=True))
        if not any(matches(selection, labels) for selection in stage.skip):
            yield labels


def evaluation_titles(name: str, evaluation: Evaluation) -> Iterator[str]:
    """What an evaluation is called, or those of its sweep."""
    swept = next(iter(evaluation.sweep.values()), None)
    yield from (name,) if swept is None else (f"{name}-{value}" for value in swept)


def measured_places(experiment: Experiment) -> list[dict[str, str]]:
    """Every place that will be measured once all is done, without seeds; also what runs would measure themselves."""
    found: dict[tuple[tuple[str, str], ...], None] = {}
    for name, stage in experiment.stages.items():
        own = [each for key in stage.evaluate for each in evaluation_titles(key, experiment.evaluations[key])]
        for labels in places_of(experiment, stage):
            place = {axis: label for axis, label in labels.items() if axis != SEED}
            for evaluation in (*own, HELD_OUT):
                found[tuple({**place, "stage": name, "evaluation": evaluation}.items())] = None
    return [dict(each) for each in found]
