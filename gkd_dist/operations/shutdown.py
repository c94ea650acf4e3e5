"""What `gkd stop --all` does: all runs of this host, or all jobs of a cluster, asked at once and then waited for."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gkd_dist.errors import GkdError, RunError
from gkd_dist.operations.ending import Ending
from gkd_dist.operations.stopping import ask, await_job, await_process, unknown
from gkd_dist.runs.documents import on_disk
from gkd_dist.runs.lock import Holder, holder_of
from gkd_dist.runs.run_directory import RunDirectory

Wait = Callable[[float], Ending]
"""Takes the seconds that are left."""


@on_disk()
def stop_here(output_dir: Path, *, timeout_s: float, as_json: bool) -> int:
    """Every run below `output_dir` that a process of this host works on. Those of other hosts are named: a signal does
    not reach them.

    Returns 0 where there is none, else the first code that is not 0.

    Raises:
        RunError: one of them is not ours to stop; the others were asked.
        DeadlineError: some have not ended in time.
    """
    paths = [path for path in sorted(output_dir.glob("*")) if path.is_dir() and not path.is_symlink()]
    problems: list[GkdError] = []
    asked: list[Wait] = []
    num_running = 0
    for directory in [RunDirectory(path.resolve()) for path in paths if (path / "lock").is_file()]:
        try:
            holder = _holder(directory)
            if holder is not None and holder.is_local:
                num_running += 1
                ask(directory, holder)
                asked.append(partial(await_process, directory, holder))
            elif holder is not None:
                where = f"runs on {holder.host}, which a signal from here does not reach"
                print(f"{directory.name}: {where}; stop it there, or as a job with --address", file=sys.stderr)
        except RunError as error:
            problems.append(error)
    nothing = "" if num_running else f"no run below {output_dir} is running on this host"
    return _awaited(asked, problems, timeout_s=timeout_s, as_json=as_json, nothing=nothing)


def stop_jobs(address: str, *, timeout_s: float, as_json: bool) -> int:
    """Every job of gkd of a cluster that has not ended, on whichever of its nodes its controller is.

    Returns as `stop_here`.

    Raises:
        ResourceError: the cluster does not answer, or not any more.
        DeadlineError: some have not ended in time.
    """
    from gkd_dist.cluster.jobs import Jobs

    jobs = Jobs(address)
    problems: list[GkdError] = []
    running = [job for job in jobs.all() if job.run and not job.has_ended]
    asked: list[Wait] = []
    for job in running:
        try:
            jobs.stop(job.id)
            asked.append(partial(await_job, jobs, job.id))
        except GkdError as error:
            problems.append(error)
    nothing = "" if running else f"no job of gkd is running at {jobs.address}"
    return _awaited(asked, problems, timeout_s=timeout_s, as_json=as_json, nothing=nothing)


def _holder(directory: RunDirectory) -> Holder | None:
    with on_disk():
        holder = holder_of(directory.lock)
    if holder is not None and not holder.is_known:
        raise RunError(unknown(directory))
    return holder


def _awaited(asked: list[Wait], problems: list[GkdError], *, timeout_s: float, as_json: bool, nothing: str) -> int:
    """Wait for all, within one time; what went wrong with some is raised at the end."""
    until = time.monotonic() + timeout_s
    endings: list[Ending] = []
    for wait in asked:
        try:
            endings.append(wait(max(0.0, until - time.monotonic())))
        except GkdError as error:
            problems.append(error)
            continue
        if not as_json:
            print(endings[-1], flush=True)
    if as_json:
        print(json.dumps({"runs": [each.record for each in endings]}))
    elif nothing:
        print(nothing)
    if problems:
        raise type(problems[0])("\n".join(str(problem) for problem in problems))
    return next((each.verdict for each in endings if each.verdict), 0)
