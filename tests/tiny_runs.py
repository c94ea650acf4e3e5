"""Runs of the recipe `tiny` from the command line: what they read, how they are called, and what they leave."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def save_pairs(path: Path) -> Path:
    """40 prompts of five words, each with the same completion."""
    rows = [
        {"prompt": " ".join(f"w{3 + (row * 7 + word) % 120}" for word in range(5)), "completion": "w7 w8 w9 w10"}
        for row in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(models: Mapping[str, Path], data: Path, output: Path, *extra: str) -> list[str]:
    """Recipe and overrides; later ones win."""
    return [
        "tiny",
        f"student.model={models['student']}",
        f"teacher.model={models['teacher']}",
        f"data.path={data}",
        f"output_dir={output}",
        "learner.learning_rate=1e-3",
        *extra,
    ]


def records(output: Path) -> list[dict[str, Any]]:
    """Of the latest run below `output`, one per step."""
    return [json.loads(line) for line in (output / "latest" / "metrics.jsonl").read_text().splitlines()]


def losses(output: Path) -> list[float]:
    return [record["loss"] for record in records(output)]
