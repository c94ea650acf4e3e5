"""Who gets the token, and by which way: nobody who does not ask for it, and not in silence over an open line."""

import logging
from pathlib import Path

import pytest

from gkd_dist.cluster import dashboard as dashboards
from gkd_dist.cluster.dashboard import asks_for_token, is_open_line
from gkd_dist.cluster.jobs import Jobs
from gkd_dist.errors import ResourceError
from tests.ray_dashboards import FakeDashboard, serving

TOKEN = "of-the-other-cluster"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text(TOKEN)
    path.chmod(0o600)
    return tmp_path


def test_a_cluster_that_asks_for_none_does_not_get_the_default_token() -> None:
    with serving(FakeDashboard(["RUNNING"])) as dashboard:
        assert [job.id for job in Jobs(dashboard.url).all()] == ["words-attempt-1"]
    assert dashboard.asked and set(dashboard.told) == {None}


def test_one_that_asks_gets_it() -> None:
    with serving(FakeDashboard(["RUNNING"], token=TOKEN)) as dashboard:
        assert [job.id for job in Jobs(dashboard.url).all()] == ["words-attempt-1"]
    assert dashboard.told[-1] == f"Bearer {TOKEN}"


def test_one_that_does_not_ask_gets_a_token_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "named")
    with serving(FakeDashboard(["RUNNING"])) as dashboard:
        Jobs(dashboard.url).all()
    assert dashboard.told[-1] == "Bearer named"


@pytest.mark.parametrize(
    ("url", "is_open"),
    [
        ("http://head:8265", True),
        ("http://10.0.0.7:8265", True),
        ("https://head", False),
        ("http://127.0.0.1:8265", False),
        ("http://[::1]:8265", False),
        ("http://localhost:8265", False),
    ],
)
def test_whether_a_line_is_open(url: str, is_open: bool) -> None:
    assert is_open_line(url) is is_open


@pytest.mark.parametrize("is_open", [True, False])
def test_a_token_over_an_open_line_is_told(
    is_open: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gkd_dist.cluster.jobs.is_open_line", lambda _: is_open)
    with serving(FakeDashboard(["RUNNING"], token=TOKEN)) as dashboard, caplog.at_level(logging.WARNING):
        Jobs(dashboard.url)
    assert ("in clear text" in caplog.text) is is_open and TOKEN not in caplog.text


def test_the_way_goes_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection to the host itself is tried: only the proxy knows its name."""
    with serving(FakeDashboard(["RUNNING"])) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert [job.id for job in Jobs("http://head.invalid:8265").all()] == ["words-attempt-1"]


def test_a_host_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(dashboards, "_CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ResourceError, match=r"not within 0\.2 s"):
        asks_for_token(f"http://127.0.0.1:{silent.getsockname()[1]}")
