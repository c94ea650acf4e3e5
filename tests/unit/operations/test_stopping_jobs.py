"""`gkd stop` of a cluster's job that has ended: nothing is asked of it, and nothing went wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.cluster.jobs import ClusterJob
from gkd_dist.operations.stopping import stop
from gkd_dist.operations.subject import RunSubject, SubmittedJob
from gkd_dist.runs.run_directory import RunDirectory


class Jobs:
    """A cluster that knows one job, which ends as it is told when it is asked to stop."""

    def __init__(self, state: str, exit_code: int | None) -> None:
        self.ended = ClusterJob("words-attempt-1", "words", state, exit_code, None, None, "")
        self.num_asked = 0

    def stop(self, submission_id: str) -> None:
        self.num_asked += 1

    def wait(self, submission_id: str, timeout_s: float) -> ClusterJob:
        return self.ended

    def logs(self, submission_id: str) -> str:
        return ""


def subject(jobs: Any, state: ClusterJob, directory: RunDirectory | None = None) -> RunSubject:
    return RunSubject(directory, SubmittedJob(jobs, state, None))


@pytest.mark.parametrize(
    ("state", "exit_code", "how"),
    [
        ("SUCCEEDED", 0, "succeeded, exit code 0"),
        ("FAILED", 70, "failed, exit code 70"),
        ("STOPPED", 75, "stopped, exit code 75"),
        ("STOPPED", None, "stopped, killed, no exit code"),
    ],
)
def test_a_job_that_has_ended_is_left_alone(
    state: str, exit_code: int | None, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs(state, exit_code)
    assert stop(subject(jobs, jobs.ended), timeout_s=1, as_json=False) == 0
    assert capsys.readouterr().out == f"words-attempt-1: already ended ({how})\n"
    directory = RunDirectory(tmp_path)
    assert stop(subject(jobs, jobs.ended, directory), timeout_s=1, as_json=True) == 0
    record = {"run": "words-attempt-1", "exit_code": exit_code, "last_checkpoint": None, "path": str(tmp_path)}
    assert json.loads(capsys.readouterr().out) == record
    assert jobs.num_asked == 0


@pytest.mark.parametrize(
    ("state", "exit_code", "verdict"), [("STOPPED", 75, 0), ("FAILED", 70, 70), ("STOPPED", None, 70)]
)
def test_a_job_that_ends_when_it_is_asked_to_says_how_in_its_exit_code(
    state: str, exit_code: int | None, verdict: int, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs(state, exit_code)
    running = ClusterJob("words-attempt-1", "words", "RUNNING", None, None, None, "")
    assert stop(subject(jobs, running), timeout_s=1, as_json=False) == verdict
    assert capsys.readouterr().out.startswith(f"words-attempt-1: {state.lower()}, ")
    assert jobs.num_asked == 1
