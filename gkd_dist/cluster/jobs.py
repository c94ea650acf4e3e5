"""Jobs of a Ray cluster over its dashboard's HTTP interface; Ray's answers as records and errors of ours."""

import logging
import math
import os
import re
import shlex
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from gkd_dist.cluster.dashboard import ADVICE, asks_for_token, is_open_line, url_of
from gkd_dist.cluster.job_log import EXIT_LINE, POLL_S, exit_code_in, run_directory_in
from gkd_dist.cluster.token import find_token, sources
from gkd_dist.errors import GkdError, ResourceError, RunError, plain

logger = logging.getLogger(__name__)

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
RUN_KEY = "gkd_run"
"""In a job's metadata: the name of its run."""
_TAIL_S = 10
_NUM_LINES = 20
_RUNS_GKD = re.compile(r"(?:^|[\s/;])gkd(?:_dist)? run\b")
"""In a command line that starts a run."""
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})


@dataclass(frozen=True)
class ClusterJob:
    """What the cluster says about one job."""

    id: str
    """Its submission id."""
    run: str
    """Name of its run; empty where it is no job of ours. Where others submitted it (`ray job submit`, KubeRay's
    operator), what its log says, and before that its own id."""
    state: str
    """`PENDING`, `RUNNING`, `STOPPED`, `SUCCEEDED` or `FAILED`: Ray's words."""
    exit_code: int | None
    """Of the command; None while it runs, and where it was killed."""
    started_at: str | None
    """UTC, ISO 8601; as `ended_at`."""
    ended_at: str | None
    message: str
    """Ray's, one line."""

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard: `http://host:port`, or `host:port`.

    Raises:
        ResourceError: nothing answers there, or it refuses the token.
    """

    def __init__(self, address: str) -> None:
        self.address = url_of(address)
        token = find_token(is_asked=asks_for_token(self.address))
        if token is not None and is_open_line(self.address):
            logger.warning("%s: the token goes there in clear text, to be read on the way; use https://", self.address)
        self._token_source = None if token is None else token.source
        self._runs: dict[str, str] = {}
        """Runs of jobs by what their logs have said."""
        self._headers = {} if token is None else token.headers
        for module in _TALKATIVE:
            logging.getLogger(module).setLevel(logging.WARNING)
        with self._translated(), _environment(ADDRESS_VARIABLE, self.address):  # which wins over the argument
            self._client = JobSubmissionClient(self.address, headers=self._headers)

    def submit(
        self,
        command: Sequence[str],
        *,
        run: str,
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str],
        num_cpus: float = 0,
    ) -> str:
        """Start a command; returns its submission id: the run's name and how often it was submitted here."""
        entrypoint = entrypoint_of(command)
        while True:
            number = 1 + max((_attempt(job.id, run) for job in self.all()), default=0)
            submission_id = f"{run}-attempt-{number}"
            try:
                with self._translated():
                    return self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=submission_id,
                        runtime_env=dict(runtime_env),
                        metadata={**metadata, RUN_KEY: run},
                        entrypoint_num_cpus=num_cpus or None,
                    )
            except _TakenError:  # by somebody who submitted at the same moment
                continue

    def all(self) -> list[ClusterJob]:
        """Those that were submitted, the first one first; no exit codes of stopped ones."""
        with self._translated():
            found = self._client.list_jobs()
        jobs = [self._named(_job(details)) for details in found if details.submission_id]
        return sorted(jobs, key=lambda job: job.started_at or "")

    def _named(self, job: ClusterJob) -> ClusterJob:
        """With the name of its run, where the log alone knows it; it is read until it says it."""
        if job.run and job.run == job.id and job.id not in self._runs:
            path = run_directory_in(self.logs(job.id))
            if path is not None:
                self._runs[job.id] = path.rpartition("/")[2].rpartition("-")[0]
        return replace(job, run=self._runs.get(job.id, job.run))

    def find(self, name: str) -> ClusterJob:
        """The job of that submission id, or the newest one of the run of that name; `latest` is the newest of all.

        Raises:
            RunError: there is none.
        """
        ours = [job for job in self.all() if job.run or job.id == name]
        exact = [job for job in ours if job.id == name]
        matching = exact or [job for job in ours if name in (job.run, "latest")]
        if not matching:
            known = f"; there are {', '.join(job.id for job in ours)}" if ours else "; it has none of gkd's"
            raise RunError(f"{name}: no job of {self.address}{known}")
        return self.info(matching[-1].id)

    def info(self, submission_id: str) -> ClusterJob:
        """One job, with its exit code where it has one."""
        with self._translated():
            details = self._client.get_job_info(submission_id)
        job = self._named(_job(details))
        if job.state == "STOPPED" and job.exit_code is None:  # Ray keeps none; the command's own last line does
            return replace(job, exit_code=exit_code_in(self.last_lines(submission_id)))
        return job

    def logs(self, submission_id: str) -> str:
        """All that it has printed."""
        with self._translated():
            return self._client.get_job_logs(submission_id)

    def last_lines(self, submission_id: str) -> str:
        """The last few of what it has printed, not the whole of it where that can be avoided."""
        where = f"{self.address}/api/v0/logs/file"
        asked = {"submission_id": submission_id, "lines": str(_NUM_LINES), "timeout": str(_TAIL_S)}
        try:
            answer = requests.get(where, params=asked, headers=self._headers, timeout=2 * _TAIL_S)
            if answer.ok:
                return answer.content.decode(errors="replace")
        except requests.RequestException as error:
            logger.debug("%s: no last lines: %s", submission_id, error)
        return "\n".join(self.logs(submission_id).splitlines()[-_NUM_LINES:])

    def tail(self, submission_id: str) -> AsyncIterator[str]:
        """What it prints, piece by piece, from its beginning until it ends.

        Raises:
            RuntimeError, OSError, aiohttp.ClientError: in the iteration; the connection broke, or did not come about.
        """
        pieces: AsyncIterator[str] = self._client.tail_job_logs(submission_id)
        return pieces

    def stop(self, submission_id: str) -> None:
        """Ask it to stop; `wait` says when it has."""
        with self._translated():
            self._client.stop_job(submission_id)

    def wait(self, submission_id: str, timeout_s: float = math.inf) -> ClusterJob:
        """The job once it has ended, or as it is when the time is over."""
        end = time.monotonic() + timeout_s
        while True:
            job = self.info(submission_id)
            if job.has_ended or time.monotonic() > end:
                return job
            time.sleep(POLL_S)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            tried = f"the token of {self._token_source}" if self._token_source else f"no token ({sources()})"
            raise ResourceError(
                f"{self.address} asks for the cluster's token, and refused {tried}; set RAY_AUTH_TOKEN_PATH to the "
                "file that holds it"
            ) from error
        except (ConnectionError, OSError) as error:  # requests' own errors are OSErrors
            raise ResourceError(f"{self.address}: no Ray dashboard answers ({plain(error)}); {ADVICE}") from error
        except RuntimeError as error:
            if "already exists" in str(error):
                raise _TakenError from error
            raise ResourceError(f"{self.address}: {_reason(error)}") from error
        except ValueError as error:  # a folder that is too large to be sent, or no runtime environment
            raise ResourceError(f"the job cannot be sent: {plain(error)}") from error


class _TakenError(GkdError):
    """A submission id is in use."""


def entrypoint_of(command: Sequence[str]) -> str:
    """A shell's line that runs `command` and ends with its exit code, which it prints first.

    Ray signals every process of a job that is stopped, the shell too, and keeps no exit code of it.
    """
    return f"trap : TERM; {shlex.join(command)}; code=$?; echo '{EXIT_LINE}'$code; exit $code"


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    former = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name) if former is None else os.environ.update({name: former})


def _reason(error: RuntimeError) -> str:
    """One line; of a traceback that Ray has sent, the last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if "Traceback" in lines[0] else lines[0]


def _attempt(submission_id: str, run: str) -> int:
    match = re.fullmatch(re.escape(run) + r"-attempt-(\d+)", submission_id)
    return int(match[1]) if match else 0


def _job(details: JobDetails) -> ClusterJob:
    lines = (details.message or "").splitlines()
    own_id = details.submission_id or ""
    return ClusterJob(
        id=own_id,
        run=(details.metadata or {}).get(RUN_KEY) or (own_id if _RUNS_GKD.search(details.entrypoint) else ""),
        state=str(details.status),
        exit_code=details.driver_exit_code,
        started_at=_time(details.start_time),
        ended_at=_time(details.end_time),
        message=lines[0] if lines else "",
    )


def _time(milliseconds: int | None) -> str | None:
    return (
        None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
    )
