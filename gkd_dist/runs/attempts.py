"""Every start of a run: its number, its epoch, and how it ended (floor F2).

    with Attempt(directory) as attempt:
        learner = start(attempt.next_epoch())

`attempts.jsonl` has one line when an attempt starts and one when it ends; an attempt without the second was killed.
"""

import json
import logging
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal

from pydantic import Field, ValidationError

from gkd_dist.errors import GkdError, StoppedError
from gkd_dist.runs.documents import Document
from gkd_dist.runs.lock import Holder, RunLock
from gkd_dist.runs.run_directory import RunDirectory

logger = logging.getLogger(__name__)

_MAX_REASON = 500
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class _Line(Document):
    attempt: int = Field(ge=1)
    event: Literal["started", "ended"]
    at: str
    host: str = ""
    pid: int = 0
    job: str = ""
    how: str = ""
    exit_code: int | None = None


@dataclass(frozen=True)
class AttemptRecord:
    """What the file says about one attempt."""

    number: int
    started_at: str
    """UTC, ISO 8601; as `ended_at`."""
    host: str
    pid: int
    job: str = ""
    """Submission id of the Ray job that it was; empty where it was none."""
    ended_at: str | None = None
    how: str | None = None
    """`done`, `stopped`, `interrupted` (at once, by a signal), or the error; None while it runs, and where it was
    killed."""
    exit_code: int | None = None
    """Of the command; None where `how` is."""


class Attempt:
    """One start of a run, which holds the lock of its directory until the block ends.

    Raises:
        RunError: another process works on the directory (see `RunLock`).
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._path = directory.attempts
        self._lock = RunLock(directory.lock)
        try:
            records = read_attempts(self._path)
            former = self._lock.former
            told = int(former.run_epoch.partition("-")[0]) if former is not None else 0
            self.number = max(told, *(record.number for record in records), 0) + 1
            """1 for the first attempt."""
            self._num_epochs = 0
            now, host, pid = _now(), socket.gethostname(), os.getpid()
            # What was asked of former attempts is void, and what they said of themselves is over.
            directory.target.unlink(missing_ok=True)
            directory.status.unlink(missing_ok=True)
            self._lock.write(Holder(run_epoch=self.next_epoch(), host=host, pid=pid, started_at=now))
            self._append(_Line(attempt=self.number, event="started", at=now, host=host, pid=pid, job=submission_id()))
        except BaseException:
            self._lock.close()
            raise

    def next_epoch(self) -> str:
        """A name for the next start of a learner in this attempt, greater than all before, of former attempts too."""
        self._num_epochs += 1
        return f"{self.number:06d}-{self._num_epochs:04d}-{uuid.uuid4().hex}"

    def break_off(self, exit_code: int, how: str = "interrupted") -> None:
        """Write the end of a process that leaves at once, without the end of the block; never raises. Any thread."""
        self._try_to_end(how, exit_code)

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._try_to_end(_reason(error), _exit_code(error))
        finally:
            self._lock.close()

    def _try_to_end(self, how: str, exit_code: int) -> None:
        try:
            self._append(_Line(attempt=self.number, event="ended", at=_now(), how=how, exit_code=exit_code))
        except OSError as full:  # must not hide how the run ended
            logger.warning("%s: the end of attempt %d could not be written: %s", self._path, self.number, full)

    def _append(self, line: _Line) -> None:
        text = line.model_dump_json(exclude_defaults=True) + "\n"
        with self._path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line off
                    text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def submission_id(environment: Mapping[str, str] = os.environ) -> str:
    """Of the Ray job that this process is; empty where it is none. Ray tells the command of a job what it was
    submitted with."""
    try:
        told = json.loads(environment.get(_JOB_VARIABLE, "{}"))["metadata"]["job_submission_id"]
    except (ValueError, LookupError, TypeError):
        return ""
    return told if isinstance(told, str) else ""


def read_attempts(path: Path) -> list[AttemptRecord]:
    """All attempts, the first one first; lines that a crash cut off are passed over."""
    records: dict[int, AttemptRecord] = {}
    if not path.exists():
        return []
    for text in path.read_bytes().splitlines():
        try:
            line = _Line.model_validate_json(text)
        except ValidationError:
            continue
        if line.event == "started":
            records[line.attempt] = AttemptRecord(line.attempt, line.at, line.host, line.pid, line.job)
        elif (begun := records.get(line.attempt)) is not None:
            records[line.attempt] = AttemptRecord(
                begun.number,
                begun.started_at,
                begun.host,
                begun.pid,
                begun.job,
                ended_at=line.at,
                how=line.how,
                exit_code=line.exit_code,
            )
    return [records[number] for number in sorted(records)]


def _reason(error: BaseException | None) -> str:
    match error:
        case None:
            return "done"
        case StoppedError():
            return "stopped"
        case KeyboardInterrupt():
            return "interrupted"
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:_MAX_REASON]


def _exit_code(error: BaseException | None) -> int:
    match error:
        case None:
            return 0
        case KeyboardInterrupt():
            return 130
        case GkdError():
            return error.exit_code
    return GkdError.exit_code


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
