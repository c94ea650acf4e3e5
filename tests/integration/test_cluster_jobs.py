"""`gkd submit`, `status`, `logs`, `list` and `stop` against a real Ray head, with token authentication and without."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobSubmissionClient

from gkd_dist.cli import main
from gkd_dist.runs.documents import read_document
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.runs.status import Status
from tests.clusters import Head, ray_head
from tests.tiny_runs import arguments

pytestmark = pytest.mark.ray

LIMIT_S = 120.0
"""For anything that takes seconds on a quiet machine."""
SECRET = "s3cr3t-of-the-test-8c1f"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "auth_token"
    path.write_text("0123456789abcdef" * 4)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def head(token: Path) -> Iterator[Head]:
    with ray_head(token) as head:
        yield head


@pytest.fixture
def knows_token(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))


@pytest.fixture(scope="module")
def infra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("infra")
    path = folder / "here.yaml"
    path.write_text(
        f"output_dir: {folder / 'runs'}\npython: {sys.executable}\nenv_from: [GKD_TEST_SECRET]\nstop_wait_s: 60\n"
    )
    return path


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def gkd(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command line; its exit code, and what it printed."""
    monkeypatch.setenv("GKD_TEST_SECRET", SECRET)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> tuple[int, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return run


def told(gkd: Command, *words: object) -> Any:
    code, said = gkd(*words, "--json")
    assert code == 0, said
    return json.loads(said)


def until(condition: Callable[[], object], otherwise: Callable[[], object]) -> None:
    """Wait for it; `otherwise` says what there is instead."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.2)


def is_training(directory: RunDirectory) -> bool:
    """Whether it says so, with a step behind it."""
    seen = read_document(directory.status, Status)
    return seen is not None and seen.state == "training" and seen.step > 0


def test_a_job_in_one_process_runs_to_its_end(
    head: Head, knows_token: None, models: dict[str, Path], data: Path, infra: Path, token: Path, gkd: Command
) -> None:
    recipe, *settings = arguments(models, data, Path("unused"), "name=local", "learner.max_steps=2")
    settings = [each for each in settings if not each.startswith("output_dir=")]
    at = ("--address", head.url)
    code, said = gkd("submit", recipe, *settings, *at, "--infra", infra, "--follow")
    assert code == 0, said
    assert f"submitted local-attempt-1 to {head.url}" in said
    assert "step 2/2" in said and "local-attempt-1: succeeded, exit code 0" in said

    shown = told(gkd, "status", "local-attempt-1", *at)
    assert shown["is_finished"] and shown["job"]["exit_code"] == 0 and shown["attempts"][0]["exit_code"] == 0
    assert Path(shown["path"]).parent == infra.parent / "runs"
    (job,) = told(gkd, "list", *at)["jobs"]
    assert (job["id"], job["run"], job["state"]) == ("local-attempt-1", "local", "SUCCEEDED")
    assert "step 2/2" in gkd("logs", "local", *at)[1]

    everything = said + json.dumps([shown, job]) + Path(shown["path"], "config.yaml").read_text()
    assert SECRET not in everything and token.read_text() not in everything


def test_a_fleet_is_stopped_with_a_checkpoint_and_submitted_again(
    head: Head, knows_token: None, models: dict[str, Path], data: Path, infra: Path, gkd: Command
) -> None:
    runs = infra.parent / "runs"
    recipe, *settings = arguments(models, data, Path("unused"), "name=fleet", "cluster.mode=ray")
    settings = [each for each in settings if not each.startswith("output_dir=")]
    submit = ("submit", recipe, *settings, "evaluation.enabled=false", "--address", head.url, "--infra", infra)
    code, said = gkd(*submit, "learner.max_steps=100000")
    assert code == 0, said
    directory = RunDirectory(runs / "fleet-1")
    until(lambda: is_training(directory), lambda: gkd("logs", "fleet", "--address", head.url))
    running = told(gkd, "status", "fleet", "--address", head.url)
    assert running["job"]["state"] == "RUNNING" and running["is_running"]
    stopped = told(gkd, "stop", "fleet", "--address", head.url)
    assert stopped["exit_code"] == 75
    code, said = gkd("logs", "fleet", "-f", "--address", head.url)
    assert code == 75 and "fleet-attempt-1: stopped, exit code 75" in said
    step = directory.last_checkpoint
    assert step is not None and stopped["last_checkpoint"] == step > 0
    code, said = gkd("stop", "fleet", "--address", head.url)
    assert code == 0 and "fleet-attempt-1: already ended (stopped, exit code 75), last checkpoint: step" in said

    code, said = gkd(*submit, f"learner.max_steps={step + 2}", "--follow")
    assert code == 0, said
    assert "submitted fleet-attempt-2" in said
    assert f"continuing {directory.path} (attempt 2); newest checkpoint: step {step}" in said
    states = {job["id"]: (job["state"], job["exit_code"]) for job in told(gkd, "list", "--address", head.url)["jobs"]}
    assert states["fleet-attempt-1"] == ("STOPPED", 75) and states["fleet-attempt-2"] == ("SUCCEEDED", 0)


@pytest.mark.fault(48)
def test_a_wrong_token_and_none_are_told_apart(
    head: Head, knows_token: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gkd: Command
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)  # which comes before the file
    code, said = gkd("list", "--address", head.url)
    assert code == 2 and "refused the token of $RAY_AUTH_TOKEN" in said and "f" * 64 not in said
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, said = gkd("list", "--address", head.url)
    assert code == 2 and "refused no token (tried $RAY_AUTH_TOKEN," in said


def test_without_authentication_a_failure_s_exit_code_comes_back_and_jobs_of_others_are_found(
    models: dict[str, Path], infra: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gkd: Command
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    with ray_head() as head:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.url)
        settings = [f"student.model={models['student']}", f"teacher.model={models['teacher']}", "data.path=/nowhere"]
        code, said = gkd("submit", "tiny", *settings, "--infra", infra, "-f")
        assert code == 2, said
        assert "tiny-attempt-1: failed, exit code 2" in said
        (job,) = told(gkd, "list", "--address", head.url)["jobs"]
        assert job["exit_code"] == 2

        # As KubeRay's operator does it: an id of its own, no metadata.
        printing = """sh -c 'echo "[   0.1 s] run directory /gone/words-3"' gkd run /etc/gkd/recipe.yaml"""
        JobSubmissionClient(head.url).submit_job(entrypoint=printing, submission_id="gkd-x7k2p")
        assert gkd("logs", "gkd-x7k2p", "-f")[0] == 0
        shown = told(gkd, "status", "words", "--address", head.url)
        assert (shown["job"]["id"], shown["job"]["run"], shown["job"]["exit_code"]) == ("gkd-x7k2p", "words", 0)
        assert [job["run"] for job in told(gkd, "list", "--address", head.url)["jobs"]] == ["tiny", "words"]
    code, said = gkd("list", "--address", head.url)
    assert code == 2 and "no Ray dashboard answers" in said
