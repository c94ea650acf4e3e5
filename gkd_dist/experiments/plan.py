"""From an experiment to its runs: names, folders, commands, what each waits for. Nothing is read or started here."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from gkd_dist.config.load import load_eval_config, load_run_config
from gkd_dist.data.sources import is_missing
from gkd_dist.errors import ConfigError
from gkd_dist.experiments.places import places_of
from gkd_dist.experiments.spec import SEED, AxisValue, Evaluation, Experiment, Stage
from gkd_dist.experiments.texts import Lookups, NotGivenError, fill, in_settings, number, override_text

RUN_NAME = "run"
"""What `gkd run` calls its numbered folder inside of a run's own."""
ALONE = {"cluster.mode": "local", "metrics.port": None}
"""Several runs share a machine: each is one process, and none serves a port."""


@dataclass(frozen=True)
class PlannedEvaluation:
    name: str
    arguments: tuple[str, ...]
    """Of `gkd`."""
    folder: Path
    """What it writes: results.json and predictions.jsonl."""

    @property
    def output(self) -> Path:
        """There once the evaluation is done."""
        return self.folder / "results.json"


@dataclass(frozen=True)
class PlannedRun:
    """One command, and the evaluations of what it leaves."""

    name: str
    """`stage_label_label`, also its folder."""
    stage: str
    labels: Mapping[str, str]
    """By axis, `seed` among them."""
    folder: Path
    arguments: tuple[str, ...]
    """Of `gkd`; empty where the output is there already."""
    output: Path
    """What other runs read: the trained model, or what the command writes; relative: a model's name on the hub."""
    config: Mapping[str, Any]
    """All that decides what it computes."""
    waits_for: tuple[str, ...]
    evaluations: tuple[PlannedEvaluation, ...]
    num_cpus: float
    num_gpus: float
    num_steps: int
    """Train steps; 0 for other commands."""
    step_cpu_s: float
    fixed_cpu_s: float

    @property
    def trains(self) -> bool:
        """Whether it is a `gkd run`, which has a run directory below its folder."""
        return self.arguments[:1] == ("run",)

    @property
    def is_there(self) -> bool:
        """Whether the output can be read, as far as it can be told here: the hub is not asked."""
        return not self.output.is_absolute() or self.output.exists()

    @property
    def estimated_cpu_s(self) -> float:
        return self.fixed_cpu_s + self.num_steps * self.step_cpu_s


@dataclass
class _Expansion:
    experiment: Experiment
    folder: Path
    runs: dict[str, PlannedRun] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    """Names of runs with problems."""
    problems: list[str] = field(default_factory=list)


class _WaitsForBrokenError(Exception):
    """A run cannot be looked at, because one that it reads from has problems of its own."""


def expand(experiment: Experiment, folder: Path) -> tuple[PlannedRun, ...]:
    """Every run below `folder`, each after those it waits for.

    Raises:
        ConfigError: names that nothing is known of, and every configuration that `gkd run` would refuse.
    """
    expansion = _Expansion(experiment, folder.absolute())
    for name, stage in experiment.stages.items():
        for labels in places_of(experiment, stage):
            try:
                run = _run(expansion, name, stage, labels)
            except NotGivenError as error:
                expansion.broken.add(run_name(name, labels))
                expansion.problems += [*NotGivenError(*_not_given(experiment)).problems, *error.problems]
            except ConfigError as error:
                expansion.broken.add(run_name(name, labels))
                expansion.problems += [f"{name}: {problem}" for problem in error.problems]
            except _WaitsForBrokenError:
                expansion.broken.add(run_name(name, labels))
            else:
                expansion.runs[run.name] = run
    if expansion.problems:
        raise ConfigError(list(dict.fromkeys(expansion.problems)))
    return tuple(_needed(expansion.runs, experiment))


def _not_given(experiment: Experiment) -> list[str]:
    """Settings that are null and stand in a text of the file, wherever: the first text that wants one hides others."""
    text = experiment.model_dump_json(warnings=False)
    return [name for name, value in experiment.settings.items() if value is None and f"{{{name}}}" in text]


def _needed(runs: Mapping[str, PlannedRun], experiment: Experiment) -> list[PlannedRun]:
    """Without those that nobody reads from and that are not evaluated."""
    needed: set[str] = set()
    for name, run in reversed(list(runs.items())):
        if run.evaluations or name in needed or not any(stage.evaluate for stage in experiment.stages.values()):
            needed |= {name, *run.waits_for}
    return [run for name, run in runs.items() if name in needed]


def run_name(stage: str, labels: Mapping[str, str]) -> str:
    """No label holds `_`, so no two runs share a name."""
    parts = [f"seed{label}" if axis == SEED else label for axis, label in labels.items()]
    return "_".join([stage, *parts])


def _run(expansion: _Expansion, name: str, stage: Stage, labels: dict[str, str]) -> PlannedRun:
    experiment = expansion.experiment
    values = {axis: experiment.axes[axis][label] for axis, label in labels.items() if axis != SEED}
    seed = int(labels.get(SEED, 0))  # what exists once stays what it is, whichever seeds the others have
    title = run_name(name, labels)
    folder = expansion.folder / "runs" / title
    names = _names(experiment, labels, seed)
    waits_for: dict[str, None] = {}

    def output_of(other: str) -> str:
        found = _run_of(expansion, other, labels)
        waits_for[found.name] = None
        return str(found.output)

    lookups: Lookups = {"stage": output_of, "recipe": lambda key: _of_recipe(names, key)}
    arguments: list[str] = []
    num_steps = 0
    num_gpus = number(fill(stage.num_gpus, names), "num_gpus")
    device = {"device": "cuda"} if num_gpus > 0 else {}  # of whatever asks a model beside the ring, which knows its own
    there = experiment.given.get(name, stage.model)
    if there is not None:
        output = _place(str(fill(there, names)))
        config: dict[str, Any] = {"given": str(output)}
    elif stage.command is not None and stage.output is not None:
        output = folder / stage.output
        names["output"] = str(output)
        arguments = [str(each) for each in fill(stage.command, names, lookups)]
        if arguments[0] == "generate":
            arguments += [f"{key}={value}" for key, value in device.items()]
        config = _command_config(arguments)
    else:
        output = folder / "latest" / "final"
        overrides = _overrides(stage, values)
        filled = {str(key): fill(value, names, lookups) for key, value in overrides.items()}
        filled = {"seed": seed, **filled, **ALONE, "name": RUN_NAME, "output_dir": str(folder)}
        recipe = str(fill(stage.recipe, names))
        arguments = ["run", recipe, *(f"{key}={override_text(value)}" for key, value in filled.items())]
        try:
            loaded = load_run_config(recipe, arguments[2:])
        except ConfigError as error:
            raise ConfigError([in_settings(problem, overrides) for problem in error.problems]) from error
        config = loaded.model_dump(mode="json")
        num_steps = loaded.learner.max_steps
    evaluations = tuple(  # before `waits_for` is read: they may name stages too
        planned
        for each in stage.evaluate
        for planned in _evaluations(each, experiment.evaluations[each], names, lookups, folder, output, device)
    )
    return PlannedRun(
        name=title,
        stage=name,
        labels=labels,
        folder=folder,
        arguments=tuple(arguments),
        output=output,
        config=config,
        waits_for=tuple(waits_for),
        evaluations=evaluations,
        num_cpus=number(fill(stage.num_cpus, names), "num_cpus"),
        num_gpus=num_gpus,
        num_steps=num_steps,
        step_cpu_s=number(fill(stage.step_cpu_s, names), "step_cpu_s"),
        fixed_cpu_s=number(fill(stage.fixed_cpu_s, names), "fixed_cpu_s"),
    )


def _place(text: str) -> Path:
    """An absolute path, or what is in no folder as it is: a name on the hub, or `package:NAME`."""
    path = Path(text).expanduser()
    in_a_folder = path.parent != Path() and path.parent.exists()
    return path.absolute() if path.exists() or in_a_folder or is_missing(text) else path


def _names(experiment: Experiment, labels: Mapping[str, str], seed: int) -> dict[str, Any]:
    """What texts of a run may name, but for stages."""
    names: dict[str, Any] = {**experiment.settings, **labels, SEED: seed}
    for axis, label in labels.items():
        if axis != SEED:
            value = experiment.axes[axis][label]
            names |= value.settings
            names[axis] = label if value.value is None else value.value
    return names


def _command_config(arguments: Sequence[str]) -> dict[str, Any]:
    """All that decides what a command does, checked as far as it checks its options itself.

    Raises:
        ConfigError: options that `gkd rows` or `gkd generate` would refuse.
    """
    options = list(itertools.takewhile(lambda each: not each.startswith("--"), arguments[2:]))
    config: dict[str, Any] = {"command": list(arguments)}
    if arguments[0] == "rows":
        config["data"] = load_run_config(arguments[1], options).data.model_dump(mode="json")
    elif arguments[0] == "generate":
        load_eval_config(None, {"model": arguments[1], "data": "-"}, options)
    return config


def _of_recipe(names: Mapping[str, Any], key: str) -> Any:
    """The value of a key in the recipe that the setting `task` names.

    Raises:
        ConfigError: there is no such setting, or no such key.
    """
    if "task" not in names:
        raise ConfigError([f"{{recipe:{key}}}: needs a setting `task`, the name of a recipe"])
    value: Any = _recipe(str(fill(names["task"], names)))
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ConfigError([f"{{recipe:{key}}}: the recipe {names['task']} has no such key"])
        value = value[part]
    return value


@lru_cache(maxsize=8)
def _recipe(name: str) -> dict[str, Any]:
    return load_run_config(name).model_dump(mode="json")


def _overrides(stage: Stage, values: Mapping[str, AxisValue]) -> dict[str, Any]:
    merged = dict(stage.overrides)
    for value in values.values():
        merged |= value.overrides
    return merged | stage.asked


def _run_of(expansion: _Expansion, stage: str, labels: Mapping[str, str]) -> PlannedRun:
    """The run of an earlier stage at the same place of the axes."""
    other = expansion.experiment.stages.get(stage)
    if other is None:
        raise ConfigError([f"{{stage:{stage}}}: there is no such stage"])
    missing = [axis for axis in other.over if axis not in labels]
    if missing:
        raise ConfigError([f"{{stage:{stage}}}: it is over {', '.join(missing)}, which this stage is not"])
    name = run_name(stage, {axis: labels[axis] for axis in other.over})
    if name in expansion.broken:
        raise _WaitsForBrokenError(name)
    if name not in expansion.runs:
        raise ConfigError([f"{{stage:{stage}}}: {name} does not come before; stages stand in their order"])
    return expansion.runs[name]


def _evaluations(
    name: str,
    evaluation: Evaluation,
    names: Mapping[str, Any],
    lookups: Lookups,
    folder: Path,
    model: Path,
    device: Mapping[str, str],
) -> Iterator[PlannedEvaluation]:
    swept = next(iter(evaluation.sweep.items()), None)
    for value in swept[1] if swept else (None,):
        options = {**device, **evaluation.options}
        title = name
        if swept is not None:
            options[swept[0]], title = value, f"{name}-{value}"
        own = folder / "evaluations" / title
        task, data = (str(fill(each, names)) for each in (evaluation.task, evaluation.data))
        filled = {key: fill(each, names, lookups) for key, each in options.items()} | {"output": str(own)}
        given = {"model": str(model), "task": task, "data": data}
        overrides = [f"{key}={override_text(each)}" for key, each in filled.items()]
        load_eval_config(None, given, overrides)
        yield PlannedEvaluation(title, ("eval", str(model), "--task", task, "--data", data, *overrides), own)
