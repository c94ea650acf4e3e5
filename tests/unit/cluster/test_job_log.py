"""A job's log over real HTTP and WebSockets: through proxies that break or refuse connections, and no more of it than
is needed."""

from pathlib import Path

import pytest

from gkd_dist.cluster import job_log
from gkd_dist.cluster.job_log import follow
from gkd_dist.cluster.jobs import Jobs
from gkd_dist.errors import ResourceError
from gkd_dist.operations.listing import list_runs
from tests.ray_dashboards import FakeDashboard, serving

LOG = "one\ntwo\nthree\n"
WHOLE = "/api/jobs/words-attempt-1/logs"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "RETRY_S"):
        monkeypatch.setattr(job_log, name, 0)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.mark.parametrize(
    "tails", [["whole"], ["cut", "cut", "whole"], ["502", "whole"], ["502"], ["cut"]], ids="-".join
)
def test_a_log_is_told_once_and_to_its_end(tails: list[str]) -> None:
    told: list[str] = []
    with serving(FakeDashboard(["RUNNING", "RUNNING", "SUCCEEDED"], LOG, tails=tails)) as dashboard:
        job = follow(Jobs(dashboard.url), "words-attempt-1", told.append)
    assert "".join(told) == LOG and (job.state, job.exit_code) == ("SUCCEEDED", 0)


def test_a_dashboard_that_goes_away_is_an_error_in_words() -> None:
    with serving(FakeDashboard(["RUNNING"], LOG, tails=["502"])) as dashboard:
        jobs = Jobs(dashboard.url)
    with pytest.raises(ResourceError, match="no Ray dashboard answers"):
        follow(jobs, "words-attempt-1", print)


@pytest.mark.parametrize("has_last_lines", [True, False])
def test_the_exit_code_of_a_stopped_job_is_in_its_last_lines(has_last_lines: bool) -> None:
    log = "gkd: exit code 1\n" + "step\n" * 100 + "gkd: exit code 75\n"
    with serving(FakeDashboard(["STOPPED"], log, has_last_lines=has_last_lines)) as dashboard:
        assert Jobs(dashboard.url).info("words-attempt-1").exit_code == 75
        assert (WHOLE in dashboard.asked) is not has_last_lines


def test_a_list_downloads_no_log(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeDashboard(["STOPPED"], "step\n" * 100 + "gkd: exit code 75\n")) as dashboard:
        assert list_runs(Path(), dashboard.url, as_json=False) == 0
        assert WHOLE not in dashboard.asked
    assert "stopped, exit code 75" in capsys.readouterr().out
