"""What `gkd status` and `gkd explain` do: what a run says about itself, and what its steps trained on (floor F5)."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from gkd_dist.errors import RunError
from gkd_dist.metrics.console import print_table
from gkd_dist.replay.ledger import DroppedPrompt, Ledger, StepEntry, TrainedSequence
from gkd_dist.runs.attempts import AttemptRecord, read_attempts
from gkd_dist.runs.documents import on_disk, read_document
from gkd_dist.runs.lock import Holder, holder_of
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.runs.status import RoleStatus, Status


@on_disk()
def status(run: str, output_dir: Path, *, as_json: bool) -> int:
    """Prints how a run is, or was when it was last seen; returns 0.

    Raises:
        RunError: there is no such run.
    """
    directory = RunDirectory.find(run, output_dir)
    holder = holder_of(directory.lock)
    attempts = read_attempts(directory.attempts)
    summary = directory.read_summary()
    seen = read_document(directory.status, Status)
    if as_json:
        content = {
            "run": directory.name,
            "path": str(directory.path),
            "is_running": holder is not None,
            "is_finished": directory.is_finished,
            "last_checkpoint": directory.last_checkpoint,
            "attempts": [asdict(attempt) for attempt in attempts],
            "summary": summary,
            "status": None if seen is None else seen.model_dump(mode="json"),
        }
        print(json.dumps(content))
        return 0
    print(f"{directory.name}: {_state(directory, holder, attempts, seen)}")
    if holder is None and summary is not None:
        _print_outcome(directory, summary, attempts)
    elif seen is not None:
        for line in _details(seen, holder is not None):
            print(line)
    step = directory.last_checkpoint
    print(f"last checkpoint: {'none' if step is None else f'step {step}'}; run directory {directory.path}")
    return 0


@on_disk()
def explain(run: str, output_dir: Path, step: int, *, as_json: bool) -> int:
    """Prints what one train step was trained on; returns 0.

    Args:
        step: counted from 0, as `step` in metrics.jsonl.

    Raises:
        RunError: there is no such run, or it has not done that step.
        DataError: its ledger is damaged.
    """
    directory = RunDirectory.find(run, output_dir)
    ledger = Ledger(directory.ledger)
    entries = list(ledger.entries())
    steps = {entry.step: entry for entry in entries if isinstance(entry, StepEntry)}
    entry = steps.get(step)
    if entry is None:
        known = f"it has steps {min(steps)} to {max(steps)}" if steps else "it has no step yet"
        raise RunError(f"{directory.ledger}: no step {step}; {known}")
    dropped = [each for each in entries if isinstance(each, DroppedPrompt) and each.step == step]
    if as_json:
        print(json.dumps({**asdict(entry), "dropped": [asdict(each) for each in dropped]}))
        return 0
    print(
        f"{directory.name}, step {step}: {len(entry.sequences)} sequences, lambda {entry.student_fraction:g}, "
        f"{entry.num_student} from the student asked for; the run had been resumed {entry.attempt} time(s)"
    )
    columns = ["sample", "source", "attempt", "versions", "staleness", "teachers", "use"]
    print_table(sys.stdout, "trained on", columns, [_row(sequence) for sequence in entry.sequences])
    for each in dropped:
        print(f"given up: {each.sample_id} ({each.reason})")
    return 0


def _row(sequence: TrainedSequence) -> list[str]:
    versions = sequence.versions
    written = "-" if versions is None else "-".join(map(str, sorted({versions.oldest, versions.newest})))
    return [
        str(sequence.sample_id),
        sequence.source.value,
        str(sequence.attempt),
        written,
        str(sequence.staleness),
        " ".join(sequence.teachers),
        str(sequence.use),
    ]


def _state(directory: RunDirectory, holder: Holder | None, attempts: list[AttemptRecord], seen: Status | None) -> str:
    last = attempts[-1] if attempts else None
    if holder is not None and seen is not None:
        return f"{seen.state}, step {seen.step}/{seen.max_steps}, attempt {seen.attempt} ({seen.host}, pid {seen.pid})"
    if holder is not None:
        return f"starting ({holder})"
    if directory.is_finished:
        return "finished"
    if last is None:
        return "not running"
    return f"not running; attempt {last.number} began {last.started_at} and ended: {last.how or 'killed'}"


def _print_outcome(directory: RunDirectory, summary: Mapping[str, Any], attempts: list[AttemptRecord]) -> None:
    """What came of a finished run."""
    print(f"{summary.get('steps', '?')} steps in {_spent_s(attempts):.0f} s of {len(attempts)} attempt(s)")
    print(f"student: {directory.final}")
    before, after = summary.get("before"), summary.get("after")
    if isinstance(before, dict) and isinstance(after, dict):
        rows = [[name, _figure(before[name]), _figure(after.get(name))] for name in before]
        print_table(sys.stdout, "held out", ["", "before", "after"], rows)


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _spent_s(attempts: list[AttemptRecord]) -> float:
    """Over all attempts whose end is known."""
    times = [(each.started_at, each.ended_at) for each in attempts if each.ended_at is not None]
    return sum((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds() for begin, end in times)


def _details(seen: Status, is_running: bool) -> Iterator[str]:
    if not is_running:
        yield f"last seen at step {seen.step}/{seen.max_steps}"
        return
    for name, role in (("samplers", seen.samplers), *((f"teacher {key}", role) for key, role in seen.teachers.items())):
        yield from _role_lines(name, role)
    rates = " ".join(f"{role} {rate:.0f}" for role, rate in seen.tokens_per_s.items())
    yield f"queue {seen.queue_depth} | staleness {seen.staleness}/{seen.max_staleness}" + (
        f" | tok/s {rates}" if rates else ""
    )
    if seen.problem is not None:
        yield f"the last request was refused: {seen.problem}"


def _role_lines(name: str, role: RoleStatus) -> Iterator[str]:
    yield f"{name}: {role.num_serving} of {role.target} serve"
    for slot in role.slots:
        where = " ".join(
            f"{key} {value}" for key, value in (("pid", slot.pid), ("node", slot.node)) if value is not None
        )
        yield f"  slot {slot.slot}: {slot.state}, {slot.restarts} restart(s){', ' + where if where else ''}"
        if slot.problem:
            yield f"    {slot.problem}"
