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
    version: str = ""
    """Of this package; empty where it was not noted."""


class RunRecord(Document):
    """What was done for a run so far."""

    identity: str
    settings: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By part, what it read beside its options (`identity.Inputs`); none where it was not noted."""
    parts: list[Part] = Field(default_factory=list)

    @property
    def cpu_s(self) -> float:
        return sum(part.cpu_s for part in self.parts)

    def succeeded(self, part: str, identity: str) -> bool:
        """Whether what is there of `part` is of this identity: an earlier success was put aside for a later one."""
        done = [each.identity for each in self.parts if each.part == part and each.exit_code == 0]
        return done[-1:] == [identity]

    def with_inputs(self, part: str, inputs: dict[str, Any]) -> "RunRecord":
        return self.model_copy(update={"inputs": {**self.inputs, part: inputs}})


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
        return run.is_there
    if record is None or not run.output.exists():
        return False
    if run.trains:
        return RunDirectory(run.folder / "latest").is_finished
    return record.succeeded(TRAIN, record.identity)


def is_evaluated(
    evaluation: PlannedEvaluation, identity: str, inputs: dict[str, Any], record: RunRecord | None
) -> bool:
    """Whether it is done, and of what is there now, as far as the record knows of it."""
    if record is None or not evaluation.output.is_file() or not record.succeeded(evaluation.name, identity):
        return False
    noted = record.inputs.get(evaluation.name, {})
    return all(noted[key] == inputs[key] for key in noted.keys() & inputs.keys())


def put_aside(evaluation: PlannedEvaluation, run: PlannedRun) -> None:
    """Move what is in the place of an evaluation that is to be done to `former/`: `gkd eval` overwrites nothing.

    It is of other options, or of an attempt whose end was not recorded.
    """
    if evaluation.folder.exists():
        move_aside(evaluation.folder, run.folder / "former", evaluation.name)


def move_aside(folder: Path, parent: Path, name: str) -> Path:
    """Move `folder` to `parent/name`, or `parent/name-N` where that is taken; returns where it is now."""
    parent.mkdir(exist_ok=True)
    target, number = parent / name, 1
    while target.exists():
        number += 1
        target = parent / f"{name}-{number}"
    folder.rename(target)
    return target


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
