"""What is known of a run of an experiment: `run.json` in its folder, and who works on the experiment."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from gkd_dist.experiments.plan import PlannedEvaluation, PlannedRun
from gkd_dist.runs.documents import Document, read_document, replace_file
from gkd_dist.runs.run_directory import RunDirectory

TRAIN = "train"
"""The part of a run that is its own command; its evaluations are the others."""


class Part(Document):
    """One start of one command of a run."""

    part: str
    """`train`, or the name of an evaluation."""
    identity: str
    started_at: str
    """UTC, ISO 8601."""
    wall_s: float
    cpu_s: float
    """User and system time of the command and of all it waited for."""
    exit_code: int
    """Negative: ended by that signal."""


class RunRecord(Document):
    """What was done for a run so far."""

    identity: str
    settings: dict[str, Any] = Field(default_factory=dict)
    parts: list[Part] = Field(default_factory=list)

    @property
    def cpu_s(self) -> float:
        return sum(part.cpu_s for part in self.parts)

    def cpu_s_of(self, part: str) -> float:
        return sum(each.cpu_s for each in self.parts if each.part == part)

    def wall_s_of(self, part: str) -> float:
        return sum(each.wall_s for each in self.parts if each.part == part)

    def succeeded(self, part: str, identity: str) -> bool:
        return any(each.part == part and each.identity == identity and each.exit_code == 0 for each in self.parts)


def record_path(run: PlannedRun) -> Path:
    return run.folder / "run.json"


def log_path(run: PlannedRun) -> Path:
    return run.folder / "log.txt"


def read_record(run: PlannedRun) -> RunRecord | None:
    """None where the run was never begun.

    Raises:
        RunError: the file is not one of ours.
    """
    return read_document(record_path(run), RunRecord)


def write_record(run: PlannedRun, record: RunRecord) -> None:
    replace_file(record_path(run), record.model_dump_json(indent=1) + "\n")


def is_trained(run: PlannedRun, record: RunRecord | None) -> bool:
    """Whether what other runs read of it is there, whole.

    A training run says so itself, so that one whose end nobody saw counts too.
    """
    if not run.arguments:
        return run.output.exists()
    if record is None or not run.output.exists():
        return False
    if run.trains:
        return RunDirectory(run.folder / "latest").is_finished
    return record.succeeded(TRAIN, record.identity)


def is_evaluated(evaluation: PlannedEvaluation, identity: str, record: RunRecord | None) -> bool:
    return record is not None and evaluation.output.is_file() and record.succeeded(evaluation.name, identity)


def put_aside(evaluation: PlannedEvaluation, run: PlannedRun) -> None:
    """Move what is in the place of an evaluation that is to be done to `former/`: `gkd eval` overwrites nothing.

    It is of other options, or of an attempt whose end was not recorded.
    """
    if not evaluation.folder.exists():
        return
    folder, number = run.folder / "former", 1
    folder.mkdir(exist_ok=True)
    while (folder / f"{evaluation.name}-{number}").exists():
        number += 1
    evaluation.folder.rename(folder / f"{evaluation.name}-{number}")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
