"""Predictions that are there already, and what may be asked of them (floor F5)."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.errors import ConfigError
from gkd_dist.evaluation.drafts import draft_path, holds_drafts, superseding
from gkd_dist.evaluation.predictions import Prediction, read_predictions
from gkd_dist.preparation.eval_needs import missing_device, missing_packages
from gkd_dist.preparation.eval_output import PREDICTIONS, RESULTS, check_writable
from gkd_dist.preparation.problems import collect

READ = frozenset({"task", "reward", "rouge_stemmer", "bleu_tokenize", "num_resamples", "confidence", "seed", "output"})
"""Keys of an evaluation that have a part in figures where the model has written already; of a reward's model, `device`
has too."""


def prepare_again(file: Path, config: EvalConfig, given: Collection[str]) -> tuple[list[Prediction], EvalConfig]:
    """The predictions in `file`, and `config` with their task.

    Args:
        given: keys that stand on the command line. Others may come out of the file that the model was asked with: what
            has no part in figures is not read there.

    Raises:
        ConfigError: all that is wrong with keys, predictions and the output, before anything is judged.
    """
    has_model = config.reward is not None and config.reward.model is not None
    idle = sorted(set(given) - READ - ({"device"} if has_model else set()))
    problems = [f"{key}: has no part in --predictions, which the model has written already; remove it" for key in idle]
    problems += _output_problems(config.output, file)
    if has_model:
        problems += missing_device(config)
    predictions = collect(problems, lambda: read_predictions(file))
    if predictions is None:
        raise ConfigError(problems)
    task = predictions[0].task
    if "task" in config.model_fields_set and config.task != task:
        problems.append(f"task: {config.task} is not that of {file}, which is {task}; remove it")
    config = config.model_copy(update={"task": task})
    problems += missing_packages(config)
    if config.reward is not None and not predictions[0].samples:
        problems.append(f"reward: task={task} writes no text to judge; remove it")
    if problems:
        raise ConfigError(problems)
    return predictions, config


@contextmanager
def held_output(folder: Path | None, file: Path) -> Iterator[None]:
    """Nobody else writes into `folder` in the block; drafts of `file` are removed behind it.

    Raises:
        ConfigError: another evaluation has written there since `prepare_again`.
        RunError: another process writes there.
    """
    if folder is None:
        yield
        return
    with superseding(draft_path(folder.resolve())):
        problems = _output_problems(folder, file)
        if problems:
            raise ConfigError(problems)
        yield


def _output_problems(folder: Path | None, file: Path) -> list[str]:
    if folder is None:
        return []
    try:
        check_writable(folder)
    except ConfigError as error:
        return list(error.problems)
    kept, draft = folder / PREDICTIONS, draft_path(folder.resolve())
    if kept.exists():
        is_own, what = file.exists() and kept.samefile(file), "other predictions"
    elif holds_drafts(draft):
        return [f"output: an evaluation into {folder} was stopped and can go on from {draft}; choose another folder"]
    else:
        is_own, what = not (folder / RESULTS).exists() or folder.samefile(file.parent), "results"
    return [] if is_own else [f"output: {folder} holds {what} already; choose a new folder, or that of {file}"]
