"""What `gkd stop` does: one signal, and the wait for what comes of it; to a run that is stopping, only the wait; to
one that has ended, neither."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gkd_dist.errors import DeadlineError, GkdError, RunError
from gkd_dist.operations.logs import outcome
from gkd_dist.operations.subject import RunSubject, SubmittedJob, subject_of
from gkd_dist.runs.attempts import AttemptRecord, read_attempts
from gkd_dist.runs.documents import on_disk
from gkd_dist.runs.lease import BEAT_S
from gkd_dist.runs.lock import Holder, holder_of
from gkd_dist.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from gkd_dist.cluster.jobs import ClusterJob

_POLL_S = 0.2
_MENDED_AFTER_S = 3 * BEAT_S
"""Two beats and the time of one."""
_GOOD = frozenset({0, 75})
"""Exit codes of runs that are finished, or can be gone on with."""


@dataclass(frozen=True)
class _Ending:
    """How a run ended."""

    code: int | None
    """Its exit code; None where it was killed."""
    how: str
    was_before: bool = False
    """There was nothing to stop."""

    @property
    def words(self) -> str:
        return f"already ended ({self.how})" if self.was_before else self.how

    @property
    def verdict(self) -> int:
        """What a command that was to stop it exits with."""
        if self.was_before or self.code in _GOOD:
            return 0
        return GkdError.exit_code if self.code is None else self.code


@on_disk()
def stop(subject: RunSubject, *, timeout_s: float, as_json: bool) -> int:
    """Prints how the run ended; returns 0 where it had before, is finished or left a good checkpoint, else its exit
    code.

    Raises:
        RunError: it was never started, or runs on another host.
        DeadlineError: it has not ended in time.
    """
    directory = subject.directory
    if subject.job is not None:
        ending, directory = _stop_job(subject.job, directory, timeout_s)
    elif directory is not None:
        ending = _stop_process(directory, timeout_s)
    else:
        raise RunError("nothing to stop")
    if as_json:
        print(json.dumps(_record(subject.name, ending, directory)))
    else:
        print(_line(subject.name, ending, directory))
    return ending.verdict


@on_disk()
def stop_all(output_dir: Path, *, timeout_s: float, as_json: bool) -> int:
    """As `stop`, for every run below `output_dir` that a process of this host works on, all at once.

    Returns 0 where there is none, else the first code that is not 0.

    Raises:
        RunError: one of them is not ours to stop; the others were asked.
        DeadlineError: some have not ended in time.
    """
    paths = [path for path in sorted(output_dir.glob("*")) if path.is_dir() and not path.is_symlink()]
    found = [RunDirectory(path.resolve()) for path in paths if (path / "lock").is_file()]
    problems: list[GkdError] = []
    running: list[tuple[RunDirectory, Holder]] = []
    for directory in found:
        _tried(problems, _add_if_here, running, directory)
    asked = [(directory, holder) for directory, holder in running if _tried(problems, _ask, directory, holder)]
    end = time.monotonic() + timeout_s
    codes, records = [], []
    for directory, holder in asked:
        if not _tried(problems, _await_end, directory, holder, max(0.0, end - time.monotonic())):
            continue
        ending = _ending_of(directory, holder)
        codes.append(ending.verdict)
        records.append(_record(directory.name, ending, directory))
        if not as_json:
            print(_line(directory.name, ending, directory))
    if as_json:
        print(json.dumps({"runs": records}))
    elif not running:
        print(f"no run below {output_dir} is running on this host")
    if problems:
        raise type(problems[0])("\n".join(str(problem) for problem in problems))
    return next((code for code in codes if code), 0)


def _add_if_here(running: list[tuple[RunDirectory, Holder]], directory: RunDirectory) -> None:
    with on_disk():
        holder = holder_of(directory.lock)
    if holder is not None and not holder.is_known:
        raise RunError(_unknown(directory))
    if holder is not None and holder.is_local:
        running.append((directory, holder))


def _unknown(directory: RunDirectory) -> str:
    """What to do about a run that works, or did so a moment ago, and whose lock is damaged."""
    last = next(iter(read_attempts(directory.attempts)[-1:]), None)
    who = "" if last is None else f"; the last attempt was process {last.pid} on {last.host}"
    return (
        f"{directory.path}: its lock is damaged, so what to stop is not known; a run that lives writes it anew within "
        f"{_MENDED_AFTER_S:.0f} s: ask again then{who}. Leave the file where it is: without it two processes may work "
        "on the run"
    )


def _tried(problems: list[GkdError], act: Callable[..., None], *arguments: object) -> bool:
    try:
        act(*arguments)
    except (RunError, DeadlineError) as error:
        problems.append(error)
        return False
    return True


def _record(name: str, ending: _Ending, directory: RunDirectory | None) -> dict[str, Any]:
    step, path = (None, None) if directory is None else (directory.last_checkpoint, str(directory.path))
    return {"run": name, "exit_code": ending.code, "last_checkpoint": step, "path": path}


def _line(name: str, ending: _Ending, directory: RunDirectory | None) -> str:
    step = None if directory is None else directory.last_checkpoint
    return f"{name}: {ending.words}" + ("" if step is None else f", last checkpoint: step {step}")


def _stop_job(
    job: SubmittedJob, directory: RunDirectory | None, timeout_s: float
) -> tuple[_Ending, RunDirectory | None]:
    if job.state.has_ended:
        return _ending_of_job(job.state, was_before=True), directory
    job.jobs.stop(job.name)
    ended = job.jobs.wait(job.name, timeout_s)
    if not ended.has_ended:
        raise DeadlineError(f"{job.name}: asked to stop, and not ended after {timeout_s:g} s; it still may")
    return _ending_of_job(ended), subject_of(job.jobs, ended).directory


def _ending_of_job(job: "ClusterJob", *, was_before: bool = False) -> _Ending:
    return _Ending(job.exit_code, outcome(job), was_before)


def _stop_process(directory: RunDirectory, timeout_s: float) -> _Ending:
    holder = holder_of(directory.lock)
    if holder is None:
        return _ending_before(directory)
    if not holder.is_known:
        raise RunError(_unknown(directory))
    if not holder.is_local:
        raise RunError(
            f"{directory.path}: runs as {holder}; stop it there with `kill {holder.pid}`, or as a job with --address"
        )
    _ask(directory, holder)
    _await_end(directory, holder, timeout_s)
    return _ending_of(directory, holder)


def _ending_before(directory: RunDirectory) -> _Ending:
    """Of a run that nobody works on."""
    if directory.is_finished:
        return _Ending(0, "finished", was_before=True)
    last = next(iter(read_attempts(directory.attempts)[-1:]), None)
    if last is None:
        raise RunError(f"{directory.path}: this run was never started, so there is nothing to stop")
    return replace(_ending_of_attempt(last), was_before=True)


def _ask(directory: RunDirectory, holder: Holder) -> None:
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise RunError(f"{directory.path}: {holder} belongs to another user, who has to stop it") from error


def _await_end(directory: RunDirectory, holder: Holder, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while (now := holder_of(directory.lock)) is not None and now.run_epoch in (holder.run_epoch, ""):
        if time.monotonic() > end:
            raise DeadlineError(f"{directory.path}: asked to stop, and not ended after {timeout_s:g} s; it still may")
        time.sleep(_POLL_S)


def _ending_of(directory: RunDirectory, holder: Holder) -> _Ending:
    number = int(holder.run_epoch.partition("-")[0])
    attempt = next((each for each in read_attempts(directory.attempts) if each.number == number), None)
    return _ending_of_attempt(attempt)


def _ending_of_attempt(attempt: AttemptRecord | None) -> _Ending:
    if attempt is None or attempt.how is None:
        return _Ending(None, "killed, no exit code")
    return _Ending(attempt.exit_code, f"{attempt.how}, exit code {attempt.exit_code}")
