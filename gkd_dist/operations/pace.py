"""How fast a run is and what holds it up, from the records of its last train steps."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STEPS = 10
_TAIL_BYTES = 1 << 16
_PARTS = {"sampler": "sample_s", "teacher": "score_s", "learner": "learn_s", "weights": "publish_s"}
"""Seconds of a step in which each was at work."""


@dataclass(frozen=True)
class Pace:
    """Means over the last steps."""

    loss: float | None
    """Of the newest."""
    step_s: float | None
    remaining_s: float | None
    busy: Mapping[str, float]
    """Share of a step in which each role was at work; in asynchronous runs they overlap."""

    @property
    def bottleneck(self) -> str | None:
        """The role that was at work for the longest part of a step: the others wait for it."""
        return max(self.busy, key=lambda role: self.busy[role], default=None)


def read_pace(metrics: Path) -> Pace:
    """Of the records at the end of `metrics.jsonl`."""
    return pace_of(last_records(metrics))


def pace_of(records: Sequence[Mapping[str, Any]]) -> Pace:
    """
    Args:
        records: of train steps, the newest last; what one lacks is passed over.
    """
    records = [each for each in records if _is_number(each.get("step_s")) and each["step_s"] > 0][-_STEPS:]
    if not records:
        return Pace(None, None, None, {})
    newest = records[-1]
    total_s = sum(each["step_s"] for each in records)
    step_s = total_s / len(records)
    left = newest.get("max_steps", math.nan) - newest.get("policy_version", math.nan)
    busy = {
        role: sum(each.get(part) or 0.0 for each in records) / total_s
        for role, part in _PARTS.items()
        if any(part in each for each in records)
    }
    loss = newest.get("loss")
    remaining_s = max(left, 0) * step_s
    return Pace(loss, step_s, remaining_s if math.isfinite(remaining_s) else None, busy)


def last_records(path: Path) -> list[dict[str, Any]]:
    """JSON objects at the end of a file, one a line; what a crash cut off is passed over."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            start = max(0, file.tell() - _TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    records = []
    for line in lines[1 if start else 0 : -1]:  # the first may be cut, what follows the last line break is not complete
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
