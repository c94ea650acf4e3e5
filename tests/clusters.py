"""A Ray cluster with its dashboard as `ray start --head` makes it: loopback, ports and folder of its own."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.processes import family_of, kill_all

REPOSITORY = Path(__file__).parents[1]
_START_S = 90.0


@dataclass(frozen=True)
class Head:
    """One that answers."""

    url: str
    """Of its dashboard."""
    log: Path


@contextmanager
def ray_head(token: Path | None = None) -> Iterator[Head]:
    """A head node until the block ends, with token authentication where there is a token file."""
    folder = Path(tempfile.mkdtemp(prefix="gkd-", dir="/tmp"))  # sockets below it: their paths may not be long
    ports = _free_ports(5)
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "RAY_AUTH_MODE": "disabled" if token is None else "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "GKD_CACHE_DIR": str(folder / "cache"),
    }
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        environment.pop(name, None)
    if token is not None:
        environment["RAY_AUTH_TOKEN_PATH"] = str(token)
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=4",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1",
        f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}",
        f"--dashboard-agent-listen-port={ports[3]}", f"--metrics-export-port={ports[4]}",
        f"--temp-dir={folder}", "--object-store-memory=100000000", "--disable-usage-stats",
    ]  # fmt: skip
    log = folder / "head.log"
    with log.open("w") as stream:
        head = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{ports[1]}"
        _await(url, head, log)
        yield Head(url, log)
    finally:
        family = family_of(head.pid)
        head.terminate()
        _, left = psutil.wait_procs(family, timeout=3)
        kill_all(left)
        head.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _await(url: str, head: subprocess.Popen[bytes], log: Path) -> None:
    """Until the jobs of the dashboard answer: with a list, or with the wish for a token."""
    end = time.monotonic() + _START_S
    while True:
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/api/jobs/", timeout=5) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                return
        except OSError:
            pass
        time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
