"""What `gkd stop` does: one signal, and the wait for what comes of it; to a run that is stopping, only the wait; to
one that has ended, neither."""

import json
import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from gkd_dist.errors import DeadlineError, RunError
from gkd_dist.operations.ending import Ending
from gkd_dist.operations.logs import outcome
from gkd_dist.operations.subject import RunSubject, SubmittedJob, subject_of
from gkd_dist.runs.attempts import AttemptRecord, read_attempts
from gkd_dist.runs.documents import on_disk
from gkd_dist.runs.lease import BEAT_S
from gkd_dist.runs.lock import Holder, holder_of
from gkd_dist.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from gkd_dist.cluster.jobs import Jobs

_POLL_S = 0.2
_MENDED_AFTER_S = 3 * BEAT_S
"""Two beats and the time of one."""


@on_disk()
def stop(subject: RunSubject, *, timeout_s: float, as_json: bool) -> int:
    """Prints how the run ended; returns 0 where it had before, is finished or left a good checkpoint, else its exit
    code.

    Raises:
        RunError: it was never started, or runs on another host.
        DeadlineError: it has not ended in time.
    """
    if subject.job is not None:
        ending = _stop_job(subject.job, subject.directory, timeout_s)
    elif subject.directory is not None:
        ending = _stop_process(subject.directory, timeout_s)
    else:
        raise RunError("nothing to stop")
    print(json.dumps(ending.record) if as_json else ending)
    return ending.verdict


def _stop_job(job: SubmittedJob, directory: RunDirectory | None, timeout_s: float) -> Ending:
    if job.state.has_ended:
        return Ending(job.name, job.state.exit_code, outcome(job.state), directory, was_before=True)
    job.jobs.stop(job.name)
    return await_job(job.jobs, job.name, timeout_s)


def await_job(jobs: "Jobs", name: str, timeout_s: float) -> Ending:
    """Of a job that was asked to stop.

    Raises:
        DeadlineError: it has not ended in time.
    """
    ended = jobs.wait(name, timeout_s)
    if not ended.has_ended:
        raise DeadlineError(f"{name}: asked to stop, and not ended after {timeout_s:g} s; it still may")
    return Ending(name, ended.exit_code, outcome(ended), subject_of(jobs, ended).directory)


def _stop_process(directory: RunDirectory, timeout_s: float) -> Ending:
    holder = holder_of(directory.lock)
    if holder is None:
        return _ending_before(directory)
    if not holder.is_known:
        raise RunError(unknown(directory))
    if not holder.is_local:
        raise RunError(
            f"{directory.path}: runs as {holder}; stop it there with `kill {holder.pid}`, or as a job with --address"
        )
    ask(directory, holder)
    return await_process(directory, holder, timeout_s)


def _ending_before(directory: RunDirectory) -> Ending:
    """Of a run that nobody works on."""
    if directory.is_finished:
        return Ending(directory.name, 0, "finished", directory, was_before=True)
    last = next(iter(read_attempts(directory.attempts)[-1:]), None)
    if last is None:
        raise RunError(f"{directory.path}: this run was never started, so there is nothing to stop")
    return replace(_ending_of(directory, last), was_before=True)


def ask(directory: RunDirectory, holder: Holder) -> None:
    """Ask a process of this host for a checkpoint and its end.

    Raises:
        RunError: it belongs to another user.
    """
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise RunError(f"{directory.path}: {holder} belongs to another user, who has to stop it") from error


def await_process(directory: RunDirectory, holder: Holder, timeout_s: float) -> Ending:
    """Of a process that was asked to stop.

    Raises:
        DeadlineError: it has not ended in time.
    """
    end = time.monotonic() + timeout_s
    while (now := holder_of(directory.lock)) is not None and now.run_epoch in (holder.run_epoch, ""):
        if time.monotonic() > end:
            raise DeadlineError(f"{directory.path}: asked to stop, and not ended after {timeout_s:g} s; it still may")
        time.sleep(_POLL_S)
    number = int(holder.run_epoch.partition("-")[0])
    attempt = next((each for each in read_attempts(directory.attempts) if each.number == number), None)
    return _ending_of(directory, attempt)


def _ending_of(directory: RunDirectory, attempt: AttemptRecord | None) -> Ending:
    if attempt is None or attempt.how is None:
        return Ending(directory.name, None, "killed, no exit code", directory)
    how = f"{attempt.how}, exit code {attempt.exit_code}"
    return Ending(directory.name, attempt.exit_code, how, directory)


def unknown(directory: RunDirectory) -> str:
    """What to do about a run that works, or did so a moment ago, and whose lock is damaged."""
    last = next(iter(read_attempts(directory.attempts)[-1:]), None)
    who = "" if last is None else f"; the last attempt was process {last.pid} on {last.host}"
    return (
        f"{directory.path}: its lock is damaged, so what to stop is not known; a run that lives writes it anew within "
        f"{_MENDED_AFTER_S:.0f} s: ask again then{who}. Leave the file where it is: without it two processes may work "
        "on the run"
    )
