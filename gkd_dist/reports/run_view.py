"""A run as its directory tells it, whatever has been written so far."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gkd_dist.errors import GkdError, plain
from gkd_dist.replay.ledger import Ledger, StepEntry
from gkd_dist.runs.attempts import AttemptRecord, read_attempts
from gkd_dist.runs.documents import read_document
from gkd_dist.runs.events import RunEvent, read_events
from gkd_dist.runs.lock import Holder, holder_of
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.runs.status import Status
from gkd_dist.types import Source

T = TypeVar("T")
Record = dict[str, Any]


@dataclass
class RunView:
    """What a report needs of a run; what is not there yet is empty."""

    name: str
    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    """Resolved, nested."""
    records: list[Record] = field(default_factory=list)
    """One per train step, in order; of a step that was trained again the last one."""
    attempts: list[AttemptRecord] = field(default_factory=list)
    events: list[RunEvent] = field(default_factory=list)
    samples: list[dict[str, str]] = field(default_factory=list)
    """By held-out prompt; keys as `samples.jsonl` has them."""
    staleness: Counter[int] = field(default_factory=Counter)
    """Student sequences that were trained on, by train steps between their oldest version and their step."""
    summary: dict[str, Any] = field(default_factory=dict)
    """What the run wrote last; empty before that."""
    versions: dict[str, str] = field(default_factory=dict)
    status: Status | None = None
    holder: Holder | None = None
    """Who works on it now."""
    last_checkpoint: int | None = None
    problems: list[str] = field(default_factory=list)
    """Files that could not be read."""

    @property
    def is_running(self) -> bool:
        return self.holder is not None

    @property
    def state(self) -> str:
        """`finished`, `training, attempt 2`, `failed: ...`, in words."""
        if self.holder is not None:
            now = "starting" if self.status is None else self.status.state
            return f"{now}, attempt {max(1, len(self.attempts))}"
        if self.summary:
            return "finished"
        if not self.attempts:
            return "not started"
        how = self.attempts[-1].how
        return f"ended: {how}" if how else "killed"

    @property
    def num_steps(self) -> int:
        """Train steps done."""
        return int(self.records[-1]["step"]) + 1 if self.records else 0

    @property
    def max_steps(self) -> int | None:
        learner = self.config.get("learner")
        steps = learner.get("max_steps") if isinstance(learner, dict) else None
        return steps if isinstance(steps, int) else None

    def spent_s(self, now: datetime) -> float:
        """Wall time of all attempts; one that was killed counts until the last thing known of it."""
        return sum((end - begin).total_seconds() for begin, end in self.spans(now))

    def spans(self, now: datetime) -> list[tuple[datetime, datetime]]:
        """Begin and end of every attempt."""
        spans = []
        for attempt in self.attempts:
            begin = datetime.fromisoformat(attempt.started_at)
            if attempt.ended_at is not None:
                end = datetime.fromisoformat(attempt.ended_at)
            elif self.is_running and attempt is self.attempts[-1]:
                end = now
            else:
                last = [event.seconds for event in self.events if event.attempt == attempt.number]
                end = datetime.fromtimestamp(max(last), UTC) if last else begin
            spans.append((begin, max(begin, end)))
        return spans


def read_run(directory: RunDirectory) -> RunView:
    """Everything there is; what cannot be read is left out, and named in `problems`."""
    problems: list[str] = []

    def tried(what: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except (OSError, ValueError, GkdError, yaml.YAMLError) as error:
            problems.append(f"{what}: {plain(error)}")
            return otherwise

    path = directory.path
    return RunView(
        name=directory.name,
        path=path,
        config=tried("config.yaml", lambda: _mapping(yaml.safe_load(directory.config.read_text())), {}),
        records=tried("metrics.jsonl", lambda: _records(directory.metrics, problems), []),
        attempts=tried("attempts.jsonl", lambda: read_attempts(directory.attempts), []),
        events=tried("events.jsonl", lambda: read_events(directory.events), []),
        samples=tried("samples.jsonl", lambda: _samples(directory.samples, problems), []),
        staleness=tried("ledger.jsonl", lambda: _staleness(directory.ledger), Counter()),
        summary=tried("summary.json", lambda: directory.read_summary() or {}, {}),
        versions=tried("versions.json", lambda: _versions(path / "versions.json"), {}),
        status=tried("control/status.json", lambda: read_document(directory.status, Status), None),
        holder=tried("lock", lambda: holder_of(directory.lock), None),
        last_checkpoint=tried("checkpoints", lambda: directory.last_checkpoint, None),
        problems=problems,
    )


def _objects(path: Path, problems: list[str], *, key: str, kind: type) -> list[dict[str, Any]]:
    """JSON objects of a file with a `key` of that kind, one per line; other lines are noted, but for a last one that a
    crash has cut off."""
    found, num_lost = [], 0
    content = path.read_bytes() if path.is_file() else b""
    for line in content.splitlines(keepends=True):
        try:
            each = json.loads(line)
        except ValueError:
            each = None
        if isinstance(each, dict) and type(each.get(key)) is kind:
            found.append(each)
        elif line.endswith(b"\n"):
            num_lost += 1
    if num_lost:
        problems.append(f"{path.name}: {num_lost} of its lines cannot be read")
    return found


def _records(path: Path, problems: list[str]) -> list[Record]:
    steps = {record["step"]: record for record in _objects(path, problems, key="step", kind=int)}
    return [steps[step] for step in sorted(steps)]


def _samples(path: Path, problems: list[str]) -> list[dict[str, str]]:
    rows = _objects(path, problems, key="prompt", kind=str)
    return [{str(key): str(value) for key, value in row.items()} for row in rows]


def _staleness(path: Path) -> Counter[int]:
    return Counter(
        sequence.staleness
        for entry in Ledger(path).entries()
        if isinstance(entry, StepEntry)
        for sequence in entry.sequences
        if sequence.source is Source.STUDENT
    )


def _versions(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {str(name): str(version) for name, version in _mapping(json.loads(path.read_bytes())).items()}


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ValueError("not a mapping")
    return dict(content)
