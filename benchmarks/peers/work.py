"""What both sides of a comparison do, and what each writes down about it. Imports nothing of either side."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Work:
    """One training run from the same student on the same rows, in their order, with a constant learning rate."""

    student: str
    """Folder in Hugging Face format, as is `teacher`."""
    teacher: str
    rows: str
    """JSON lines as `save_rows` writes them. The first one is set aside by gkd_dist, which wants a held-out row, and
    left out by the others; then step k trains on the rows from k * batch_size on."""
    max_steps: int
    batch_size: int = 8
    max_new_tokens: int = 64
    student_fraction: float = 1.0
    """lambda; both draw one coin per step."""
    temperature: float = 1.0
    """Of what the student writes."""
    bf16: bool = False
    """bfloat16 autocast, and a teacher in bfloat16; else float32 everywhere."""
    learning_rate: float = 1e-4
    max_grad_norm: float = 1.0
    seed: int = 0
    save_steps: int = 0
    """Also keep the student every this many steps; 0 keeps the last one alone."""

    def save(self, path: Path) -> Path:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> "Work":
        return cls(**json.loads(path.read_text()))


@dataclass(frozen=True)
class Row:
    """A prompt and a reference completion, as text and as both sides see it."""

    prompt: str
    """What the data file says."""
    completion: str
    rendered: str
    """With the chat template, where there is one."""
    prompt_ids: list[int]
    completion_ids: list[int]
    """Ends with the token that ends an answer."""


def save_rows(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows))
    return path


def load_rows(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()]


def steady(steps: list[dict[str, Any]], warm_up: int) -> dict[str, Any]:
    """Trained tokens per second without the first `warm_up` steps, and mean seconds of a step by part."""
    kept = steps[warm_up:]
    if not kept:
        raise ValueError(f"{len(steps)} steps are no more than the {warm_up} of the warm-up; ask for more")
    seconds = sum(step["step_s"] for step in kept)
    tokens = sum(step["trained_tokens"] for step in kept)
    names = list(dict.fromkeys(name for step in kept for name in step["parts_s"]))
    parts = {name: sum(step["parts_s"].get(name, 0.0) for step in kept) / len(kept) for name in names}
    return {
        "steps": len(kept),
        "trained_tokens": tokens,
        "mean_step_s": round(seconds / len(kept), 3),
        "trained_tokens_per_s": round(tokens / seconds, 2),
        "mean_parts_s": {
            **{name: round(value, 3) for name, value in parts.items()},
            "other": round(seconds / len(kept) - sum(parts.values()), 3),
        },
    }
