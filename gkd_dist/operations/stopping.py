"""What `gkd stop` does: one signal, and the wait for what comes of it; to a run that is stopping, only the wait."""

import json
import os
import signal
import time

from gkd_dist.errors import DeadlineError, GkdError, RunError
from gkd_dist.operations.logs import exit_code, outcome
from gkd_dist.operations.subject import RunSubject, SubmittedJob, subject_of
from gkd_dist.runs.attempts import read_attempts
from gkd_dist.runs.control import require_running
from gkd_dist.runs.documents import on_disk
from gkd_dist.runs.lock import holder_of
from gkd_dist.runs.run_directory import RunDirectory

_POLL_S = 0.2
_GOOD = frozenset({0, 75})
"""Exit codes of runs that are finished, or can be gone on with."""


@on_disk()
def stop(subject: RunSubject, *, timeout_s: float, as_json: bool) -> int:
    """Prints how the run ended; returns 0 where it is finished or left a good checkpoint, else its exit code.

    Raises:
        RunError: it does not run, or on another host.
        DeadlineError: it has not ended in time.
    """
    if subject.job is not None:
        code, how, directory = _stop_job(subject.job, timeout_s)
    elif subject.directory is not None:
        directory = subject.directory
        code, how = _stop_process(directory, timeout_s)
    else:
        raise RunError("nothing to stop")
    step = None if directory is None else directory.last_checkpoint
    if as_json:
        path = None if directory is None else str(directory.path)
        print(json.dumps({"run": subject.name, "exit_code": code, "last_checkpoint": step, "path": path}))
    else:
        checkpoint = "" if step is None else f", last checkpoint: step {step}"
        print(f"{subject.name}: {how}{checkpoint}")
    return 0 if code in _GOOD else GkdError.exit_code if code is None else code


def _stop_job(job: SubmittedJob, timeout_s: float) -> tuple[int | None, str, RunDirectory | None]:
    if job.state.has_ended:
        raise RunError(f"{job.name}: this job has ended ({outcome(job.state)}); `gkd submit` goes on with its run")
    job.jobs.stop(job.name)
    ended = job.jobs.wait(job.name, timeout_s)
    if not ended.has_ended:
        raise DeadlineError(f"{job.name}: asked to stop, and not ended after {timeout_s:g} s; it still may")
    code = exit_code(ended) if ended.exit_code is not None else None
    return code, outcome(ended), subject_of(job.jobs, ended).directory


def _stop_process(directory: RunDirectory, timeout_s: float) -> tuple[int | None, str]:
    holder = require_running(directory)
    if not holder.is_local:
        raise RunError(
            f"{directory.path}: runs as {holder}; stop it there with `kill {holder.pid}`, or as a job with --address"
        )
    number = int(holder.run_epoch.partition("-")[0])
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise RunError(f"{directory.path}: {holder} belongs to another user, who has to stop it") from error
    end = time.monotonic() + timeout_s
    while (now := holder_of(directory.lock)) is not None and now.run_epoch == holder.run_epoch:
        if time.monotonic() > end:
            raise DeadlineError(f"{directory.path}: asked to stop, and not ended after {timeout_s:g} s; it still may")
        time.sleep(_POLL_S)
    attempt = next((each for each in read_attempts(directory.attempts) if each.number == number), None)
    if attempt is None or attempt.how is None:
        return None, "killed, no exit code"
    return attempt.exit_code, f"{attempt.how}, exit code {attempt.exit_code}"
