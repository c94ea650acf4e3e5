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
from gkd_dist.operations.logs import outcome
from gkd_dist.operations.pace import last_records
from gkd_dist.operations.silence import silence, silent_s
from gkd_dist.operations.subject import RunSubject, SubmittedJob
from gkd_dist.replay.ledger import DroppedPrompt, Ledger, StepEntry, TrainedSequence
from gkd_dist.runs.attempts import AttemptRecord, read_attempts
from gkd_dist.runs.documents import on_disk, read_document
from gkd_dist.runs.lock import Holder, holder_of, is_damaged
from gkd_dist.runs.moment import moment
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.runs.status import Alike, ProcessStatus, RoleStatus, SlotStatus, Status, alike


@on_disk()
def status(subject: RunSubject, *, as_json: bool) -> int:
    """Prints how a run is, or was when it was last seen, and how its job is where it is one; returns 0."""
    if as_json:
        print(json.dumps(content_of(subject)))
        return 0
    for line in lines_of(subject):
        print(line)
    if subject.directory is not None and holder_of(subject.directory.lock) is None:
        _print_held_out(subject.directory.read_summary() or {})
    return 0


def content_of(subject: RunSubject) -> dict[str, Any]:
    """For programs; what only the run directory knows is null where that cannot be seen."""
    directory = subject.directory
    job = None if subject.job is None else {"address": subject.job.jobs.address, **asdict(subject.job.state)}
    if directory is None:
        state = None if subject.job is None else subject.job.state
        return {
            "run": None if state is None else state.run,
            "path": None,
            "is_running": state is not None and not state.has_ended,
            "is_finished": state is not None and state.state == "SUCCEEDED",
            "last_checkpoint": None,
            "attempts": [],
            "summary": None,
            "status": None,
            "status_problem": None,
            "silent_s": None,
            "newest_step": None,
            "job": job,
        }
    seen, problem = _seen(directory)
    holder = holder_of(directory.lock)
    return {
        "run": directory.name,
        "path": str(directory.path),
        "is_running": holder is not None,
        "is_finished": directory.is_finished,
        "last_checkpoint": directory.last_checkpoint,
        "attempts": [asdict(attempt) for attempt in read_attempts(directory.attempts)],
        "summary": directory.read_summary(),
        "status": None if seen is None else seen.model_dump(mode="json"),
        "status_problem": problem,
        "silent_s": None if holder is None else silent_s(directory, seen),
        "newest_step": _newest_step(directory, seen),
        "job": job,
    }


def _seen(directory: RunDirectory) -> tuple[Status | None, str | None]:
    """What the run last said of itself, and why that is not known."""
    try:
        return read_document(directory.status, Status), None
    except RunError as error:
        return None, f"what it said of itself cannot be read; the rest is known without it ({error})"


def _newest_step(directory: RunDirectory, seen: Status | None) -> int | None:
    """Train steps done, by whichever of the files was written last: a process that was killed had no time for all."""
    steps: list[object] = [] if seen is None else [seen.step]
    for last in last_records(directory.metrics)[-1:]:
        if seen is None or last.get("attempt") == seen.attempt:
            steps.append(last.get("policy_version"))
    for last in [each for each in last_records(directory.ledger) if each.get("kind") == "step"][-1:]:
        attempt, step = last.get("attempt"), last.get("step")
        if isinstance(attempt, int) and isinstance(step, int) and (seen is None or attempt + 1 == seen.attempt):
            steps.append(step + 1)
    return max((step for step in steps if isinstance(step, int)), default=None)


def lines_of(subject: RunSubject) -> Iterator[str]:
    """For people."""
    if subject.job is not None:
        yield from _job_lines(subject.job)
    directory = subject.directory
    if directory is None:
        return
    holder = holder_of(directory.lock)
    attempts = read_attempts(directory.attempts)
    summary = directory.read_summary()
    seen, problem = _seen(directory)
    yield f"{directory.name}: {_state(directory, holder, attempts, seen, problem)}"
    silent = silence(directory, holder, seen)
    if silent is not None:
        yield silent + ("; what follows was so then" if seen is not None else "")
    if problem is not None:
        yield f"note: {problem}"
    if is_damaged(directory.lock):
        yield "its lock is damaged; whether it runs is told by the kernel's lock and by signs of life"
    if holder is None and summary is not None:
        yield f"{summary.get('steps', '?')} steps in {_spent_s(attempts):.0f} s of {len(attempts)} attempt(s)"
        yield f"student: {directory.final}"
    elif seen is not None and holder is not None:
        yield from _details(seen)
    elif (newest := _newest_step(directory, seen)) is not None:
        yield f"last seen at step {newest}" + ("" if seen is None else f"/{seen.max_steps}")
    step = directory.last_checkpoint
    yield f"last checkpoint: {'none' if step is None else f'step {step}'}; run directory {directory.path}"


def _job_lines(job: SubmittedJob) -> Iterator[str]:
    times = " ".join(
        f"{word} {moment(when)}"
        for word, when in (("started", job.state.started_at), ("ended", job.state.ended_at))
        if when is not None
    )
    yield f"job {job.name}: {outcome(job.state)}{f'; {times}' if times else ''}; at {job.jobs.address}"
    last = next((line for line in reversed(job.jobs.last_lines(job.name).splitlines()) if line.strip()), None)
    if last is not None:
        yield f"last said: {last}"


@on_disk()
def explain(run: str, output_dir: Path, step: int, *, as_json: bool) -> int:
    """Prints what one train step was trained on; returns 0.

    Args:
        step: counted from 0, as `step` in metrics.jsonl.

    Raises:
        RunError: there is no such run, or it has not done that step.
    """
    directory = RunDirectory.find(run, output_dir)
    lines = list(Ledger(directory.ledger).numbered())
    steps = [(number, entry) for number, entry in lines if isinstance(entry, StepEntry)]
    found = [(number, entry) for number, entry in steps if entry.step == step]
    damaged = [number for number, entry in lines if entry is None]
    damage = (
        f"{_lines_of(damaged)} of the ledger cannot be read; what was written there is not known" if damaged else ""
    )
    if not found:
        numbers = [entry.step for _, entry in steps]
        known = f"it has steps {min(numbers)} to {max(numbers)}" if numbers else "it has no step yet"
        missing = ", and this one is lost" if numbers and min(numbers) < step < max(numbers) else ""
        raise RunError(f"{directory.ledger}: no step {step}; {known}{missing}{damage and f'; {damage}'}")
    dropped = [each for _, each in lines if isinstance(each, DroppedPrompt) and each.step == step]
    if as_json:
        rest = {"dropped": [asdict(each) for each in dropped], "lines": [number for number, _ in found]}
        print(json.dumps({**asdict(found[0][1]), **rest, "damaged_lines": damaged}))
        return 0
    for _, entry in found:
        print(
            f"{directory.name}, step {step}: {len(entry.sequences)} sequences, lambda {entry.student_fraction:g}, "
            f"{entry.num_student} from the student asked for; the run had been resumed {entry.attempt} time(s)"
        )
        columns = ["sample", "source", "attempt", "versions", "staleness", "teachers", "use"]
        print_table(sys.stdout, "trained on", columns, [_row(sequence) for sequence in entry.sequences])
    for each in dropped:
        print(f"given up: {each.sample_id} ({each.reason})")
    if len(found) > 1:
        times = _lines_of([number for number, _ in found])
        print(f"note: the ledger has this step {len(found)} times ({times}); no run goes on from a checkpoint after it")
    if damage:
        print(f"note: {damage}")
    return 0


def _lines_of(numbers: list[int]) -> str:
    """`line 3`, or `lines 3, 5`."""
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


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


def _state(
    directory: RunDirectory,
    holder: Holder | None,
    attempts: list[AttemptRecord],
    seen: Status | None,
    problem: str | None,
) -> str:
    last = attempts[-1] if attempts else None
    if holder is not None and seen is not None:
        since = f" since {moment(last.started_at)}" if last is not None else ""
        return f"{seen.state}, step {seen.step}/{seen.max_steps}, attempt {seen.attempt}{since}"
    if holder is not None and not holder.is_known:
        return "a process works on it, or did a moment ago"
    if holder is not None:
        state = "starting" if problem is None else "running"
        return f"{state} since {moment(holder.started_at)} ({holder.host}, pid {holder.pid})"
    if directory.is_finished:
        return "finished"
    if last is None:
        return "not running"
    how = "was killed" if last.ended_at is None else f"ended {moment(last.ended_at)}: {last.how}"
    return f"not running; attempt {last.number} began {moment(last.started_at)} and {how}"


def _print_held_out(summary: Mapping[str, Any]) -> None:
    """What came of a finished run."""
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


def _details(seen: Status) -> Iterator[str]:
    yield f"controller: {_where(ProcessStatus(pid=seen.pid, node=seen.node))}, host {seen.host}"
    for rank, learner in enumerate(seen.learners):
        yield f"{'learner' if len(seen.learners) == 1 else f'learner rank {rank}'}: {_where(learner)}"
    for name, process in (("reward", seen.reward), ("journal", seen.journal)):
        if process is not None:
            yield f"{name}: {_where(process)}"
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
    lines: dict[int, tuple[str, SlotStatus | Alike, str]] = {
        slot.slot: (f"slot {slot.slot}", slot, _where(slot)) for slot in role.slots if slot.pid is not None
    }
    groups = alike(slot for slot in role.slots if slot.pid is None)
    lines |= {group.slots[0]: (group.name, group, "") for group in groups}
    for _, (which, what, where) in sorted(lines.items()):
        yield f"  {which}: {what.state}, {what.restarts} restart(s){f', {where}' if where else ''}"
        if what.problem:
            yield f"    {what.problem}"


def _where(process: ProcessStatus | SlotStatus) -> str:
    """`pid 7 node 3fa...`, as far as it is known."""
    facts = (("pid", process.pid), ("node", process.node))
    return " ".join(f"{key} {value}" for key, value in facts if value is not None)
