"""What a model said, row by row: everything that metrics need, so that they can be computed without the model."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gkd_dist.config.evaluation import TASKS, TaskName
from gkd_dist.disk import write_whole
from gkd_dist.errors import DataError


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion."""

    text: str
    """Without special tokens."""
    num_tokens: int
    """The stop token included, or those up to the end of the stop that ended the text."""
    is_truncated: bool
    """Whether the length limit ended it."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Divergences between teacher and student on one completion, summed over its tokens, nats."""

    forward_kl: float
    reverse_kl: float
    jsd: float
    """JSD(0.5)."""
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of a task with what the model made of it."""

    task: TaskName
    index: int
    """Row in its data file, counted from 0."""
    prompt: str
    """As the model saw it, before a chat template."""
    references: tuple[str, ...] = ()
    subset: str | None = None
    """Subject or task that the row belongs to; None where there is one."""
    samples: tuple[Sample, ...] = ()
    options: tuple[str, ...] = ()
    log_probs: tuple[float, ...] = ()
    """Of each option, nats; where options were compared instead of text written."""
    on_samples: tuple[Distance, ...] = ()
    """To the teacher, on each sample; empty without a teacher."""
    on_reference: Distance | None = None
    """To the teacher, on the first reference; None without one of both."""
    is_reference_cut: bool = False
    """Whether `on_reference` is without its end, because the models have not so many positions."""
    rewards: tuple[float, ...] = ()
    """Of each sample; empty where none was asked for."""


def write_predictions(predictions: Sequence[Prediction], file: Path) -> None:
    """JSON lines, whole or not at all; missing folders above are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(each), ensure_ascii=False) for each in predictions)
    write_whole(file, "".join(f"{line}\n" for line in lines).encode())


def read_predictions(file: Path) -> list[Prediction]:
    """What `write_predictions` wrote.

    Raises:
        DataError: no such file, a line that is something else, or no line at all.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); give a predictions.jsonl that `gkd eval` wrote") from error
    predictions = list(_rows(lines, file))
    if not predictions:
        raise DataError(f"{file}: is empty; give a predictions.jsonl that `gkd eval` wrote")
    if len({each.task for each in predictions}) > 1:
        raise DataError(f"{file}: holds predictions of several tasks; give one file for each")
    if len({bool(each.rewards) for each in predictions}) > 1:
        raise DataError(f"{file}: only some of its rows have rewards; give rows of one evaluation")
    return predictions


def _rows(lines: Sequence[str], file: Path) -> Iterator[Prediction]:
    for number, line in enumerate(lines, start=1):
        try:
            yield _prediction(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{file}:{number}: not a prediction of `gkd eval` ({error})") from error


def _prediction(plain: dict[str, Any]) -> Prediction:
    unknown = plain.keys() - {each.name for each in fields(Prediction)}
    if unknown:
        raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
    if plain["task"] not in TASKS:
        raise ValueError(f"unknown task {plain['task']!r}")
    prediction = Prediction(
        task=plain["task"],
        index=int(plain["index"]),
        prompt=str(plain["prompt"]),
        references=tuple(map(str, plain.get("references", ()))),
        subset=plain.get("subset"),
        samples=tuple(Sample(**each) for each in plain.get("samples", ())),
        options=tuple(map(str, plain.get("options", ()))),
        log_probs=tuple(map(float, plain.get("log_probs", ()))),
        on_samples=tuple(Distance(**each) for each in plain.get("on_samples", ())),
        on_reference=Distance(**plain["on_reference"]) if plain.get("on_reference") else None,
        is_reference_cut=bool(plain.get("is_reference_cut", False)),
        rewards=tuple(map(float, plain.get("rewards", ()))),
    )
    if len(prediction.options) != len(prediction.log_probs):
        raise ValueError(f"{len(prediction.options)} options but {len(prediction.log_probs)} log_probs")
    if prediction.rewards and len(prediction.rewards) != len(prediction.samples):
        raise ValueError(f"{len(prediction.samples)} samples but {len(prediction.rewards)} rewards")
    if not all(map(math.isfinite, prediction.rewards)):
        raise ValueError("a reward is not finite")
    if not prediction.samples and not prediction.options:
        raise ValueError("neither samples nor options")
    return prediction
