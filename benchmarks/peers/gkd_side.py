"""One run of gkd_dist through its command line, as a user would start it, and what its own metrics say about it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from work import Work, load_rows

PARTS = ("sample", "score", "learn", "publish")
LOCAL = ("cluster.mode=local", "sampler.engine=hf", "sampler.engine_args={}", "teacher.engine=hf")
"""The ring in one process, on transformers."""


def command(work: Work, folder: Path, engines: Sequence[str] = ()) -> list[str]:
    """`gkd run` of the recipe beside this file.

    Args:
        engines: more overrides; without any, samplers and teachers are vLLM's, as Ray actors.
    """
    data = folder / "rows.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    rows = load_rows(Path(work.rows))
    data.write_text("".join(json.dumps({"prompt": r.prompt, "completion": r.completion}) + "\n" for r in rows))
    dtype = "bfloat16" if work.bf16 else "float32"
    overrides = [
        f"student.model={work.student}",
        f"teacher.model={work.teacher}",
        f"teacher.dtype={dtype}",
        f"sampler.dtype={dtype}",
        f"learner.bf16={json.dumps(work.bf16)}",
        f"data.path={data}",
        f"output_dir={folder}",
        f"seed={work.seed}",
        f"sampling.max_new_tokens={work.max_new_tokens}",
        f"sampling.temperature={work.temperature}",
        f"objective.student_fraction={work.student_fraction}",
        f"learner.max_steps={work.max_steps}",
        f"learner.batch_size={work.batch_size}",
        f"learner.learning_rate={work.learning_rate}",
        f"learner.max_grad_norm={work.max_grad_norm}",
        f"learner.save_steps={work.save_steps}",
        *engines,
    ]
    return [sys.executable, "-m", "gkd_dist", "run", str(Path(__file__).with_name("recipe.yaml")), *overrides]


def result(folder: Path) -> dict[str, Any]:
    """In the form that `trl_side.py` writes."""
    run = folder / "latest"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "versions": json.loads((run / "versions.json").read_text()),
        "steps": [
            {
                "step_s": record["step_s"],
                "trained_tokens": record["trained_tokens"],
                "loss": record["loss"],
                "student_sequences": record["student_sequences"],
                "parts_s": {part: record[f"{part}_s"] for part in PARTS if f"{part}_s" in record},
            }
            for record in records
        ],
    }


def student(folder: Path, step: int | None = None) -> Path:
    """The student after `step`, or the last one."""
    run = (folder / "latest").resolve()
    return run / "final" if step is None else run / "students" / f"step-{step}"
