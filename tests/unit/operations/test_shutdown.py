"""`gkd stop --all --address`: jobs are stopped by their cluster, on whichever node their controller is."""

import json

import pytest

from gkd_dist.cli import main
from tests.ray_dashboards import FakeDashboard, serving

STOP = "/api/jobs/words-attempt-1/stop"


@pytest.mark.parametrize(("last", "code", "number"), [("75", 0, 75), ("70", 70, 70), ("", 70, None)])
def test_every_job_is_asked_and_waited_for(
    last: str, code: int, number: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    log = f"gkd: exit code {last}\n" if last else "step 3/9\n"
    with serving(FakeDashboard(["RUNNING", "RUNNING", "STOPPED"], log)) as head:
        assert main(["stop", "--all", "--json", "--address", head.url, "--timeout", "60"]) == code
        assert head.asked.count(STOP) == 1
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["run"], run["exit_code"], run["path"]) == ("words-attempt-1", number, None)


@pytest.mark.parametrize("dashboard", [FakeDashboard(["SUCCEEDED"]), FakeDashboard(["RUNNING"], metadata={})])
def test_jobs_that_have_ended_and_those_of_others_are_left_alone(
    dashboard: FakeDashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(dashboard) as head:
        assert main(["stop", "--all", "--address", head.url]) == 0
        assert STOP not in head.asked
    assert capsys.readouterr().out == f"no job of gkd is running at {head.url}\n"


def test_a_job_that_does_not_end_in_time_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeDashboard(["RUNNING"])) as head:
        assert main(["stop", "--all", "--address", head.url, "--timeout", "0"]) == 70
    assert "words-attempt-1: asked to stop, and not ended after" in capsys.readouterr().err
