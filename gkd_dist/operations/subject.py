"""What a command is about: a run directory here, a job of a cluster, or both.

With an address, RUN names a job there. Without one it is a run directory here; where there is none of that name and
the environment names a cluster, it is a job of that.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gkd_dist.errors import ResourceError, RunError
from gkd_dist.runs.attempts import read_attempts
from gkd_dist.runs.documents import on_disk
from gkd_dist.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from gkd_dist.cluster.jobs import ClusterJob, Jobs

_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True)
class SubmittedJob:
    """A job, and the cluster to ask about it."""

    jobs: "Jobs"
    state: "ClusterJob"
    path: str | None
    """Of the run directory, as the job has printed it; None: not yet."""

    @property
    def name(self) -> str:
        return self.state.id


@dataclass(frozen=True)
class RunSubject:
    """At least one of both."""

    directory: RunDirectory | None
    """None: the job has none yet, or it cannot be seen from here."""
    job: SubmittedJob | None = None

    @property
    def name(self) -> str:
        if self.job is not None:
            return self.job.name
        return "" if self.directory is None else self.directory.name


@on_disk()
def find_subject(run: str, output_dir: Path, address: str | None) -> RunSubject:
    """
    Args:
        address: None: none was given.

    Raises:
        RunError: there is no such run or job.
        ResourceError: the cluster does not answer.
    """
    if address is None:
        try:
            return RunSubject(RunDirectory.find(run, output_dir))
        except RunError:
            address = known_address(None)
            if address is None:
                raise
    return _job_subject(run, address)


def known_address(address: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The one given, else Ray's variables in its order; None where nobody names one."""
    return address or next((environment[name] for name in _VARIABLES if environment.get(name)), None)


def require_address(address: str | None) -> str:
    """As `known_address`.

    Raises:
        ResourceError: nobody names one.
    """
    known = known_address(address)
    if known is None:
        raise ResourceError(
            "no cluster is named; give --address http://HOST:8265 (`ray start --head` prints it), "
            f"or set {' or '.join(_VARIABLES)}"
        )
    return known


def _job_subject(run: str, address: str) -> RunSubject:
    from gkd_dist.cluster.jobs import Jobs

    jobs = Jobs(address)
    return subject_of(jobs, jobs.find(run))


def subject_of(jobs: "Jobs", job: "ClusterJob") -> RunSubject:
    """The job with its run directory, where that can be seen from here."""
    from gkd_dist.cluster.job_log import run_directory_in

    path = run_directory_in(jobs.logs(job.id))
    return RunSubject(_directory_of(job, path), SubmittedJob(jobs, job, path))


@on_disk()
def again(subject: RunSubject) -> RunSubject:
    """The same at this moment. The log is read only until it has named the run directory: it may be long."""
    job = subject.job
    if job is None:
        return subject
    state = job.jobs.info(job.name)
    if job.path is None:
        return subject_of(job.jobs, state)
    return RunSubject(subject.directory or _directory_of(state, job.path), replace(job, state=state))


def _directory_of(job: "ClusterJob", path: str | None) -> RunDirectory | None:
    """What the job calls so, where it is here; a folder of this machine may have the same path and be another."""
    if path is None or not (Path(path) / "config.yaml").is_file():
        return None
    directory = RunDirectory(Path(path))
    return directory if any(each.job == job.id for each in read_attempts(directory.attempts)) else None
