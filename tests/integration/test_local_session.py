"""A cluster that is started for one run: who may join it."""

import os
import subprocess
import sys

import pytest

LOCAL = """
import os, ray
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
with ray_session(ClusterConfig(address="local", object_store_bytes=100 << 20)):
    print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
    input()
print([name for name in os.environ if name.startswith("RAY_AUTH")])
"""
STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("joined")
"""


def without_token() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}


def joins(address: str, **variables: str) -> bool:
    """Whether a process with these variables gets into the cluster."""
    command = [sys.executable, "-c", STRANGER, address]
    environment = without_token() | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    return "joined" in done.stdout


@pytest.mark.ray
def test_nobody_joins_without_the_token_which_goes_with_the_session() -> None:
    """In a process of its own: Ray reads the token of a process once."""
    command = [sys.executable, "-c", LOCAL]
    with subprocess.Popen(
        command, env=without_token(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address, token = process.stdout.readline().split()
            assert not joins(address, RAY_AUTH_MODE="disabled")
            assert not joins(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 64)
            assert joins(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
            out, _ = process.communicate("\n", timeout=60)
            assert out == "[]\n"
        finally:
            process.terminate()
