"""What `gkd logs` does: the words of a job, or the steps of a run directory."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gkd_dist.errors import GkdError
from gkd_dist.metrics.sinks import PlainLines
from gkd_dist.operations.subject import RunSubject
from gkd_dist.runs.documents import on_disk
from gkd_dist.runs.lock import holder_of
from gkd_dist.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from gkd_dist.cluster.jobs import ClusterJob, Jobs

_POLL_S = 0.5
_KILLED = GkdError.exit_code


def logs(subject: RunSubject, *, is_followed: bool) -> int:
    """Prints them; returns 0, or the exit code of a job that is followed."""
    if subject.job is not None:
        if is_followed:
            return follow(subject.job.jobs, subject.job.name)
        print(subject.job.jobs.logs(subject.job.name), end="")
    elif subject.directory is not None:
        _steps(subject.directory, is_followed=is_followed)
    return 0


def follow(jobs: "Jobs", submission_id: str) -> int:
    """Prints what a job says until it ends; returns its exit code."""
    from gkd_dist.cluster.job_log import follow as follow_log

    try:
        job = follow_log(jobs, submission_id, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"\n{submission_id} goes on; gkd stop {submission_id} --address {jobs.address} stops it", file=sys.stderr)
        raise
    print(f"{submission_id}: {outcome(job)}", flush=True)
    return exit_code(job)


def outcome(job: "ClusterJob") -> str:
    """`stopped, exit code 75`, for people."""
    code = "killed, no exit code" if job.exit_code is None else f"exit code {job.exit_code}"
    return f"{job.state.lower()}, {code}" if job.has_ended else job.state.lower()


def exit_code(job: "ClusterJob") -> int:
    """Of a job that has ended, as one of gkd's."""
    if job.exit_code is not None:
        return job.exit_code
    return 0 if job.state == "SUCCEEDED" else _KILLED


@on_disk()
def _steps(directory: RunDirectory, *, is_followed: bool) -> None:
    lines = PlainLines(sys.stdout)
    for text in _texts(directory.metrics, directory if is_followed else None):
        try:
            record = json.loads(text)
        except ValueError:  # a crash cut it off
            continue
        lines.write({key: value for key, value in record.items() if value is not None})


def _texts(path: Path, followed: RunDirectory | None) -> Iterator[str]:
    """Complete lines; of a run that is followed, also those to come."""
    rest, position = "", 0
    while True:
        is_running = followed is not None and holder_of(followed.lock) is not None
        if path.exists():
            with path.open(encoding="utf-8") as file:
                file.seek(position)
                rest += file.read()
                position = file.tell()
        *complete, rest = rest.split("\n")
        yield from complete
        if not is_running:
            return
        time.sleep(_POLL_S)
