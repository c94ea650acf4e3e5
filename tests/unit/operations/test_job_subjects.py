"""A job with its run directory: found once, not asked for again, and never one that is another's."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gkd_dist.operations.subject import again, subject_of
from gkd_dist.runs.attempts import Attempt, read_attempts, submission_id
from gkd_dist.runs.run_directory import RunDirectory

VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class Jobs:
    """One job of a cluster; counts how often its log is read whole."""

    address = "http://head:8265"

    def __init__(self, log: str) -> None:
        self.log = log
        self.num_read = 0

    def logs(self, name: str) -> str:
        self.num_read += 1
        return self.log

    def info(self, name: str) -> Any:
        return SimpleNamespace(id=name, has_ended=False)


def told(directory: RunDirectory) -> str:
    return f"[   0.1 s] run directory {directory.path}\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """Of the job `words-attempt-1`."""
    monkeypatch.setenv(VARIABLE, json.dumps({"metadata": {"job_submission_id": "words-attempt-1"}}))
    directory = RunDirectory.create(tmp_path, "words")
    directory.write_config("")
    with Attempt(directory):
        pass
    return directory


def subject(jobs: Jobs, name: str) -> Any:
    return subject_of(jobs, jobs.info(name))  # type: ignore[arg-type]


def test_the_log_is_read_once_to_find_the_run_directory(directory: RunDirectory) -> None:
    jobs = Jobs("")
    seen = again(subject(jobs, "words-attempt-1"))
    assert seen.directory is None and jobs.num_read == 2  # it has none yet
    jobs.log = told(directory)
    for _ in range(5):
        seen = again(seen)
        assert seen.directory is not None and seen.directory.path == directory.path
    assert jobs.num_read == 3


def test_a_directory_that_cannot_be_seen_is_not_asked_for_again(tmp_path: Path) -> None:
    jobs = Jobs(told(RunDirectory(tmp_path / "elsewhere")))
    seen = again(again(subject(jobs, "words-attempt-1")))
    assert seen.directory is None and jobs.num_read == 1


def test_a_folder_of_another_job_is_not_taken_for_its_own(directory: RunDirectory) -> None:
    jobs = Jobs(told(directory))
    assert subject(jobs, "words-attempt-2").directory is None
    assert subject(jobs, "words-attempt-1").directory is not None


def test_a_folder_of_no_job_is_not_taken_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    directory = RunDirectory.create(tmp_path, "words")
    directory.write_config("")
    with Attempt(directory):
        pass
    assert [each.job for each in read_attempts(directory.attempts)] == [""]
    assert subject(Jobs(told(directory)), "words-attempt-1").directory is None


@pytest.mark.parametrize(
    "value", ["", "{", "[]", "{}", '{"metadata": null}', '{"metadata": {}}', '{"metadata": {"job_submission_id": 3}}']
)
def test_a_variable_that_names_no_job(value: str) -> None:
    assert submission_id({VARIABLE: value}) == submission_id({}) == ""
