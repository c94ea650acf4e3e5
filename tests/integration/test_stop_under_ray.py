"""Signals to a process that has started Ray: Ray's own handler is replaced, and nothing is left behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.processes import is_alive

pytestmark = pytest.mark.ray

PROGRAM = """
import asyncio, os, sys
import ray
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.errors import GkdError
from gkd_dist.stop_signals import StopSignals

@ray.remote(num_cpus=0)
class Part:
    def pid(self):
        return os.getpid()

async def main(hears):
    with StopSignals(lambda text: print(text, flush=True)) as stop, ray_session(ClusterConfig(address="local")):
        stop.install()
        stop.begin()
        part = Part.remote()
        print(await part.pid.remote(), flush=True)
        await stop.event.wait()
        if not hears:
            await asyncio.sleep(3600)
        raise stop.error("runs/r-1")

try:
    asyncio.run(main(sys.argv[1] == "hears"))
except GkdError as error:
    sys.exit(error.exit_code)
"""


@contextmanager
def ray_process(how: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    running = subprocess.Popen([sys.executable, "-c", PROGRAM, how], stdout=-1, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=30)


def gone(processes: list[psutil.Process]) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(map(is_alive, processes)):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    ("how", "number", "code"),
    [("hears", signal.SIGTERM, 75), ("hears", signal.SIGINT, 75), ("deaf", signal.SIGTERM, 130)],
)
def test_a_stopped_process_leaves_no_actor_behind(
    how: str,
    number: signal.Signals,
    code: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ray_process(how, tmp_path_factory.mktemp("r"), monkeypatch) as running:
        assert running.stdout is not None
        part = int(running.stdout.readline())
        family = psutil.Process(running.pid).children(recursive=True)
        assert part in {each.pid for each in family}
        running.send_signal(number)
        assert running.stdout.readline().startswith(f"{number.name}: finishing this step")
        if how == "deaf":
            running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == code
    # Of a process that ended at once, Ray's two agents notice it only after most of a minute; actors do at once.
    assert gone(family if how == "hears" else [each for each in family if each.pid == part])
