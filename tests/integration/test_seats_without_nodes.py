"""A seat is waited for while there may be one, and no longer."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

PROGRAM = """
import asyncio, psutil, sys
from gkd_dist.cluster import seats
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.errors import EngineError, ResourceError
seats._LOOK_S = 0.3

async def seek():
    async with seats.Seats().seat(1, 0):
        return "seated"

async def main():
    print(await seek(), flush=True)
    for process in psutil.Process().children(recursive=True):
        if process.name() == "raylet":
            process.kill()
    for _ in range(2):  # the first may still be promised one, and lose it
        try:
            print(await seek())
        except EngineError:
            continue
        except ResourceError as error:
            sys.exit(str(error))

with ray_session(ClusterConfig(address="local", object_store_bytes=80_000_000)):
    asyncio.run(main())
"""


def test_no_seat_is_waited_for_where_no_node_lives(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path_factory.mktemp("s")))  # short: sockets of Ray are below it
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=180, check=False)
    assert "seated" in ended.stdout.splitlines()
    assert ended.returncode == 1, ended.stderr[-3000:]
    assert "no node of the Ray cluster lives any more" in ended.stderr
