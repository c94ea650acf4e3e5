"""Evaluations of finished runs, read again and computed anew under resampled rows.

All runs that were evaluated on the same rows are resampled alike, so that differences between them are paired. Rows
are told apart by their numbers in the data file, and their subset: as many rows are not the same ones where
`overlong=drop` has left out others.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gkd_dist.errors import DataError
from gkd_dist.evaluation.intervals import Bootstrap, Figure, Indices, Values
from gkd_dist.evaluation.metrics import MetricSettings, compute
from gkd_dist.evaluation.predictions import Prediction, read_predictions
from gkd_dist.experiments.measurements import CONFIDENCE, NUM_RESAMPLES, Measurement
from gkd_dist.experiments.places import HELD_OUT
from gkd_dist.experiments.plan import PlannedRun

_SEED = 20230613
_BATCH = 100
"""Resamples at once: bounds memory."""


@dataclass(frozen=True, slots=True)
class _Resampled(Figure):
    """A figure that can be computed again from other rows."""

    values: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Resampling(Bootstrap):
    """Keeps what the bootstrap of an evaluation only takes percentiles of."""

    rows: int = 0
    """Which rows they are (`_rows`)."""

    def figure(self, sizes: Sequence[int], statistic: Callable[..., Values]) -> Figure:
        value = float(statistic(*(np.arange(size) for size in sizes)))
        return _Resampled(value, None, None, sum(sizes), _resample(tuple(sizes), statistic, self.rows))


def measure(runs: Sequence[tuple[PlannedRun, Sequence[Path]]]) -> list[Measurement]:
    """Every metric of every evaluation, and what runs measured themselves (`evaluation.enabled`).

    Args:
        runs: each with the folders of those evaluations that are done.

    Raises:
        DataError: a folder does not hold what `gkd eval` writes.
    """
    found: list[Measurement] = []
    for run, folders in runs:
        found += (each for folder in folders for each in _of_folder(run, folder))
        found += _held_out(run)
    return found


def _held_out(run: PlannedRun) -> Iterator[Measurement]:
    """What the run itself measured at its end, on its held-out rows; of one seed nothing is known beyond the value."""
    try:
        summary = json.loads((run.folder / "latest" / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for metric, value in (summary.get("after") or {}).items():
        if isinstance(value, int | float):
            resampled = np.full(NUM_RESAMPLES, float(value))
            yield Measurement(run.name, run.stage, run.labels, HELD_OUT, metric, float(value), resampled, 0)


def _of_folder(run: PlannedRun, folder: Path) -> Iterator[Measurement]:
    predictions = read_predictions(folder / "predictions.jsonl")
    report = compute(predictions, _settings(folder / "results.json", _rows(predictions)))
    for metric, figure in report.figures.items():
        if isinstance(figure, _Resampled):
            yield Measurement(
                run=run.name,
                stage=run.stage,
                labels=run.labels,
                evaluation=folder.name,
                metric=metric,
                value=figure.value,
                resampled=figure.values,
                num_rows=figure.num_segments,
            )


def _rows(predictions: Sequence[Prediction]) -> int:
    """The same number for the same rows in the same order; 0 for all of a file from its first one on."""
    rows = [(each.subset, each.index) for each in predictions]
    if [index for _, index in rows] == list(range(len(rows))):
        return 0
    return int.from_bytes(hashlib.sha256(json.dumps(rows).encode()).digest()[:8])


def _settings(results: Path, rows: int) -> MetricSettings:
    try:
        config: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))["settings"]
        return MetricSettings(
            rouge_stemmer=bool(config["rouge_stemmer"]),
            bleu_tokenize=str(config["bleu_tokenize"]),
            bootstrap=_Resampling(num_resamples=NUM_RESAMPLES, confidence=CONFIDENCE, seed=_SEED, rows=rows),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{results}: is not a result of `gkd eval` ({error!r}); remove its folder") from error


def _resample(sizes: tuple[int, ...], statistic: Callable[..., Values], rows: int) -> npt.NDArray[np.float64]:
    """[NUM_RESAMPLES] values of `statistic`."""
    drawn = _draws(sizes, rows)
    parts = [
        np.asarray(statistic(*(each[first : first + _BATCH] for each in drawn)), dtype=np.float64)
        for first in range(0, NUM_RESAMPLES, _BATCH)
    ]
    return np.concatenate(parts)


@lru_cache(maxsize=8)
def _draws(sizes: tuple[int, ...], rows: int) -> tuple[Indices, ...]:
    """For each group [NUM_RESAMPLES, size] row numbers, the same for whoever asks of the same rows."""
    generator = np.random.default_rng([_SEED, *sizes, *([rows] if rows else [])])
    return tuple(generator.integers(0, size, (NUM_RESAMPLES, size)) for size in sizes)
