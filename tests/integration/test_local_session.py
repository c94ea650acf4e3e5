"""A cluster that is started for one run: who may join it."""

import os
import subprocess
import sys

import pytest

from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig

STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("joined")
"""


def joins(address: str, **variables: str) -> bool:
    """Whether a process with these variables gets into the cluster."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | variables
    command = [sys.executable, "-c", STRANGER, address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    return "joined" in done.stdout


@pytest.mark.ray
def test_nobody_joins_without_the_token_which_goes_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with ray_session(ClusterConfig(address="local", object_store_bytes=100 << 20)):
        address, token = ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]
        assert not joins(address, RAY_AUTH_MODE="disabled")
        assert not joins(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 64)
        assert joins(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    assert not [name for name in os.environ if name.startswith("RAY_AUTH")]
