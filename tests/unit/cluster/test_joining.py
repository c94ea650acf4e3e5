"""A cluster that is to be joined is looked for before Ray looks for it, because Ray looks for long."""

import socket

import pytest

from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.errors import DeadlineError, ResourceError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that Ray was given, instead of a connection."""
    given: list[str] = []
    monkeypatch.setattr("ray.init", lambda address, **_: given.append(address))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return given


@pytest.fixture
def silent() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_an_address_at_which_nothing_listens_is_refused_at_once(asked: list[str], silent: str, form: str) -> None:
    address = form.format(silent)
    told = r"no Ray cluster at .*Connection refused.*ray start --head"
    with pytest.raises(ResourceError, match=told) as caught, ray_session(ClusterConfig(address=address)):
        raise AssertionError("it was joined")
    assert address in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert asked == []


def test_auto_means_the_address_of_the_environment(
    asked: list[str], silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", silent)
    with pytest.raises(ResourceError, match="RAY_ADDRESS"), ray_session(ClusterConfig(address="auto")):
        raise AssertionError("it was joined")
    assert asked == []


@pytest.mark.parametrize("address", ["auto", "cluster-of-ours"])
def test_what_names_no_host_and_port_is_left_to_ray(asked: list[str], address: str) -> None:
    with ray_session(ClusterConfig(address=address)):
        pass
    assert asked == [address]


def test_one_that_listens_is_joined(asked: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with ray_session(ClusterConfig(address=address)):
            pass
    assert asked == [address]


def test_one_that_does_not_start_in_time_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr("ray.init", late)
    with pytest.raises(DeadlineError) as caught, ray_session(ClusterConfig(address="local")):
        raise AssertionError("it was joined")
    told = str(caught.value)
    assert "timed out during startup" in told and "run the same command again" in told
    assert len(told.splitlines()) == 1


def test_a_fault_of_this_program_is_not_taken_for_a_slow_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise KeyError("log_to_driver")

    monkeypatch.setattr("ray.init", broken)
    with pytest.raises(KeyError), ray_session(ClusterConfig(address="local")):
        raise AssertionError("it was joined")
