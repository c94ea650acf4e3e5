"""Whether what the runs of a plan read is there, seen before any of them starts.

Of each file the first row is looked at. What is on the hub is not asked for, and what an earlier run will write is
not there yet.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gkd_dist.config.data import DataConfig
from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.config.load import load_eval_config
from gkd_dist.data.readers import check_first_row, read_rows
from gkd_dist.data.sources import is_missing, no_such_file, records
from gkd_dist.errors import DataError
from gkd_dist.evaluation.questions import read_questions
from gkd_dist.experiments.plan import PlannedEvaluation, PlannedRun

_BY_SUBSET = ("mmlu", "bbh")
"""Tasks of several subsets, of which as many rows are taken each."""


def input_problems(plan: Sequence[PlannedRun], folder: Path) -> list[str]:
    """One line for each file and folder that is not there, or whose first row cannot be used.

    Args:
        folder: of the experiment; what is below it is written by its runs.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    for run in plan:
        for problem in _of_run(run, folder, seen):
            found.setdefault(problem, f"{run.stage}: {problem}")
    return list(found.values())


def question_problems(plan: Sequence[PlannedRun]) -> list[str]:
    """Questions that were trained on: it would be found only after the training otherwise.

    All rows of both files are read; whether they are there is `input_problems`' to tell.
    """
    found: dict[str, None] = {}
    seen: set[str] = set()
    for evaluation in (each for run in plan for each in run.evaluations):
        config = _eval_config(evaluation)
        key = [config.task, config.data, config.not_in, config.fields.prompt, config.num_rows]
        if config.not_in is not None and _is_news(key, seen):
            found |= dict.fromkeys(_told(lambda config=config: read_questions(config)))  # type: ignore[misc]
    return list(found)


def scarce_rows(plan: Sequence[PlannedRun], folder: Path) -> list[str]:
    """One line for each file with fewer rows than are asked for: all of them are taken then, which is no error.

    Where `input_problems` finds nothing; rows that are too long for a model are not known of here.

    Args:
        folder: of the experiment; what is below it is written by its runs.
    """
    found: dict[str, None] = {}
    seen: set[str] = set()
    for run in plan:
        if "data" in run.config:
            data = DataConfig.model_validate_json(json.dumps(run.config["data"]))
            if _is_file(data.path, folder) and _is_news(["run", run.config["data"]], seen):
                found |= dict.fromkeys(_scarce_training_rows(data))
        for config in map(_eval_config, run.evaluations):
            key = [config.task, config.data, config.num_rows]
            if config.task not in _BY_SUBSET and _is_file(config.data, folder) and _is_news(key, seen):
                found |= dict.fromkeys(_scarce_questions(config))
    return list(found)


def _scarce_training_rows(data: DataConfig) -> Iterator[str]:
    if data.num_train is None:
        return
    try:
        number = len(read_rows(data).rows)
    except DataError as error:
        yield from str(error).splitlines()
        return
    if number < data.num_train + data.num_held_out:
        asked = f"data.num_train={data.num_train}, and {data.num_held_out} held out"
        yield f"{data.path} has {number} rows, fewer than are asked for: {asked}"


def _scarce_questions(config: EvalConfig) -> Iterator[str]:
    if config.num_rows is None:
        return
    rows = records(config.data, config.split or "test", "data")
    number = sum(1 for _ in itertools.islice(rows, config.num_rows))
    if number < config.num_rows:
        yield f"{config.data} has {number} rows, fewer than are asked for: num_rows={config.num_rows}"


def _of_run(run: PlannedRun, folder: Path, seen: set[str]) -> Iterator[str]:
    """
    Args:
        seen: receives what has been looked at, and is not again.
    """
    if not run.arguments and not run.is_there:
        yield f"no such file or folder: {run.output}"
    if "data" in run.config:
        data = DataConfig.model_validate_json(json.dumps(run.config["data"]))
        if _is_news(["run", data.model_dump(mode="json")], seen) and _is_here(data.path, folder):
            yield from _told(lambda: check_first_row(data))
    for evaluation in run.evaluations:
        config = _eval_config(evaluation)
        sources = {"data": config.data, "not_in": config.not_in, "shots.path": config.shots.path}
        if not _is_news([config.task, sources, config.fields.model_dump(mode="json")], seen):
            continue
        missing = {key: path for key, path in sources.items() if path is not None and is_missing(path)}
        yield from (no_such_file(path, key) for key, path in missing.items())
        if not missing and _is_here(config.data, folder) and _is_here(config.shots.path or config.data, folder):
            first = config.model_copy(update={"num_rows": 1, "not_in": None})
            yield from _told(lambda config=first: read_questions(config))  # type: ignore[misc]


def _is_file(path: str | None, folder: Path) -> bool:
    """Whether it is a file of this machine, with rows to count."""
    return path is not None and not Path(path).is_relative_to(folder) and Path(path).expanduser().is_file()


def _is_news(what: Any, seen: set[str]) -> bool:
    key = json.dumps(what, sort_keys=True)
    is_news = key not in seen
    seen.add(key)
    return is_news


def _is_here(path: str | None, folder: Path) -> bool:
    """Whether it can be read now, or is missing and will be told so."""
    if path is None or Path(path).is_relative_to(folder):
        return False
    return Path(path).expanduser().exists() or is_missing(path)


def _told(read: Callable[[], object]) -> Iterator[str]:
    try:
        read()
    except DataError as error:
        yield from str(error).splitlines()


def _eval_config(evaluation: PlannedEvaluation) -> EvalConfig:
    _, model, _, task, _, data, *overrides = evaluation.arguments
    return load_eval_config(None, {"model": model, "task": task, "data": data}, overrides)
