"""What a job is told to run, and what is read from what it says; addresses of dashboards."""

import os
import signal
import subprocess
import sys
import time

import pytest
from ray.job_submission import JobDetails

from gkd_dist.cluster.job_log import run_directory_in
from gkd_dist.cluster.jobs import Jobs, entrypoint_of
from gkd_dist.errors import ResourceError, RunError


def test_the_command_s_exit_code_is_said_and_kept() -> None:
    done = subprocess.run(
        entrypoint_of([sys.executable, "-c", "import sys; sys.exit(70)"]), shell=True, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (70, "gkd: exit code 70\n")


def test_words_of_the_command_stay_words() -> None:
    done = subprocess.run(
        entrypoint_of(["printf", "%s|", "a b", "$HOME", "'; exit 3"]), shell=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("a b|$HOME|'; exit 3|") and done.returncode == 0


def test_a_signal_to_shell_and_command_alike_leaves_the_code_of_the_command() -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    running = subprocess.Popen(
        entrypoint_of([sys.executable, "-c", program]), shell=True, stdout=-1, text=True, start_new_session=True
    )
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    began = time.monotonic()
    os.killpg(running.pid, signal.SIGTERM)
    assert running.stdout.read() == "gkd: exit code 75\n"
    assert running.wait(30) == 75 and time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("log", "path"),
    [
        ("", None),
        ("[   0.1 s] run directory /data/runs/tiny-1\n", "/data/runs/tiny-1"),
        (
            "[  10.1 s] continuing /data/my runs/tiny-1 (attempt 2); newest checkpoint: step 4; changed: a 1 -> 2\n",
            "/data/my runs/tiny-1",
        ),
        ("a prompt about the run directory /etc\n", None),
    ],
)
def test_the_run_directory_is_read_from_the_log(log: str, path: str | None) -> None:
    assert run_directory_in(log) == path


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "no address of a dashboard"),
        ("http://me:secret@head:8265", "must hold no user name or password"),
        ("http://head:port", "not an address"),
        ("http://", "names no host"),
        ("127.0.0.1:1", "no Ray dashboard answers"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, message: str) -> None:
    with pytest.raises(ResourceError, match=message) as caught:
        Jobs(address)
    assert "secret" not in str(caught.value)


class Listing:
    """A client of a cluster with a job of ours, two that KubeRay's operator has submitted, and one of a stranger."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def list_jobs(self) -> list[JobDetails]:
        return [
            JobDetails(
                type="SUBMISSION",
                submission_id=name,
                status="RUNNING",
                entrypoint=entrypoint,
                metadata=metadata,
                start_time=start,
            )
            for start, (name, entrypoint, metadata) in enumerate(
                [
                    (
                        "tiny-attempt-1",
                        entrypoint_of(["python", "-m", "gkd_dist", "run", "r.yaml"]),
                        {"gkd_run": "tiny"},
                    ),
                    ("gkd-x7k2p", "gkd run /etc/gkd/recipe.yaml", None),
                    ("gkd-early", "/srv/gkd/.venv/bin/gkd run quickstart", {}),
                    ("theirs", "python train.py --note 'no gkd running here'", {}),
                ]
            )
        ]

    def get_job_info(self, submission_id: str) -> JobDetails:
        return next(job for job in self.list_jobs() if job.submission_id == submission_id)

    def get_job_logs(self, submission_id: str) -> str:
        self.read.append(submission_id)
        return {"gkd-x7k2p": "[   0.1 s] run directory /runs/words-of-mine-1\n", "gkd-early": ""}[submission_id]


def test_a_job_that_an_operator_submitted_is_found_by_the_run_that_its_log_names() -> None:
    jobs = Jobs.__new__(Jobs)
    jobs._client, jobs.address, jobs._runs = Listing(), "", {}  # type: ignore[assignment]
    assert {job.id: job.run for job in jobs.all()} == {
        "tiny-attempt-1": "tiny",
        "gkd-x7k2p": "words-of-mine",
        "gkd-early": "gkd-early",
        "theirs": "",
    }
    assert jobs.find("words-of-mine").id == jobs.find("gkd-x7k2p").id == "gkd-x7k2p"
    assert jobs.find("latest").id == "gkd-early"
    assert jobs._client.read.count("gkd-x7k2p") == 1
    with pytest.raises(RunError, match=r"train: no job of .*; there are tiny-attempt-1, gkd-x7k2p, gkd-early"):
        jobs.find("train")


class Attempts:
    """Ray's client of a cluster with four jobs of one run, in these states."""

    def __init__(self, *states: str) -> None:
        self._states = states

    def list_jobs(self) -> list[JobDetails]:
        return [
            JobDetails(
                type="SUBMISSION",
                submission_id=f"words-attempt-{number}",
                status=state,
                entrypoint="gkd run r.yaml",
                metadata={"gkd_run": "words"},
                start_time=number,
                driver_exit_code=0,
            )
            for number, state in enumerate(self._states, 1)
        ]

    def get_job_info(self, submission_id: str) -> JobDetails:
        return next(job for job in self.list_jobs() if job.submission_id == submission_id)


@pytest.mark.parametrize(
    ("states", "found"),
    [
        (("SUCCEEDED", "RUNNING", "FAILED"), 2),  # the third was refused: the run was at work
        (("FAILED", "RUNNING", "PENDING"), 3),
        (("SUCCEEDED", "FAILED"), 2),
    ],
)
def test_a_run_is_its_newest_job_that_has_not_ended(states: tuple[str, ...], found: int) -> None:
    jobs = Jobs.__new__(Jobs)
    jobs._client, jobs.address, jobs._runs = Attempts(*states), "", {}  # type: ignore[assignment]
    assert jobs.find("words").id == f"words-attempt-{found}"
    assert jobs.find("latest").id == f"words-attempt-{len(states)}"
    assert jobs.find("words-attempt-1").id == "words-attempt-1"
