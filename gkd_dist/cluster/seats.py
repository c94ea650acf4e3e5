"""Processors reserved on some node for commands of their own: what the runs of an experiment sit on.

A command ends with its seat, whatever ends that: the kernel sees to it.
"""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from gkd_dist.cluster.failures import failure_of
from gkd_dist.errors import ResourceError
from gkd_dist.process import end_with_parent
from gkd_dist.supervision.together import beside

_POLL_S = 0.1
_LOOK_S = 5.0
_MAX_MISSED = 3
_MORTAL = (
    "import os, sys; from gkd_dist.process import end_with_parent; end_with_parent(); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
"""What a command is started through: between fork and exec of a process with threads it could not be said safely."""
_HANDED_ON = ("PYTHONPATH", "HF_", "GKD_", "TRANSFORMERS_")
"""Beginnings of the names of this process's variables that a command gets on every node."""


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    exit_code: int
    """Negative: ended by that signal."""
    wall_s: float
    cpu_s: float
    """User and system time, of what it waited for too."""


class SeatActor:
    """Runs one command at a time in the folder of the driver. Needs two threads, one of them for `stop`."""

    def __init__(self) -> None:
        end_with_parent()
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def ready(self) -> None:
        """Answers once the processors are reserved."""

    def run(self, command: Sequence[str], folder: str, log: str, environment: Mapping[str, str]) -> Ending:
        began = time.monotonic()
        with open(log, "ab") as file:
            with self._turn:
                if self._is_stopped:
                    return Ending(exit_code=-15, wall_s=0.0, cpu_s=0.0)
                file.write(f"$ {' '.join(command)}\n".encode())
                file.flush()
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _MORTAL, *command],
                    cwd=folder,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C at the terminal is for the driver, which passes it on in order
                )
            while (ending := self._ending(began)) is None:
                time.sleep(_POLL_S)
        return ending

    def stop(self) -> None:
        """SIGTERM to the command; one that comes later is not begun."""
        with self._turn:
            self._is_stopped = True
            if self._process is not None:
                self._process.terminate()

    def _ending(self, began: float) -> Ending | None:
        """None while the command runs. The lock keeps a signal from a process that is gone."""
        with self._turn:
            if self._process is None:
                return None
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid == 0:
                return None
            self._process.returncode = os.waitstatus_to_exitcode(status)
            code, self._process = self._process.returncode, None
        return Ending(code, time.monotonic() - began, usage.ru_utime + usage.ru_stime)


class Seat:
    """A `SeatActor` as the driver sees it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def run(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Ending:
        """
        Raises:
            EngineError: the node or the actor died, and the command with it.
        """
        own = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
        asked = self._actor.run.remote(list(command), os.getcwd(), str(log.absolute()), {**own, **environment})
        ending: Ending = await _answer(asked, "run")
        return ending

    async def stop(self) -> None:
        await _answer(self._actor.stop.remote(), "stop")


class Seats:
    """Seats on the cluster that this process is connected to (`ray_session`)."""

    @property
    def num_cpus(self) -> float:
        return float(ray.cluster_resources().get("CPU", 0.0))

    @property
    def num_gpus(self) -> float:
        return float(ray.cluster_resources().get("GPU", 0.0))

    @asynccontextmanager
    async def seat(self, num_cpus: float, num_gpus: float) -> AsyncIterator[Seat]:
        """Entered once the processors and GPUs are free; after the block nothing of it is left.

        Raises:
            EngineError: its process died before it was ready.
            ResourceError: no node of the cluster lives any more.
        """
        remote: Any = ray.remote(SeatActor)
        actor = remote.options(num_cpus=num_cpus, num_gpus=num_gpus, max_concurrency=2, max_restarts=0).remote()
        try:
            async with beside(_watch_nodes()):
                await _answer(actor.ready.remote(), "start")
            yield Seat(actor)
        finally:
            ray.kill(actor)


async def _watch_nodes() -> None:
    """For ever, or until the cluster is seen several times without a living node."""
    num_missed = 0
    while num_missed < _MAX_MISSED:
        await asyncio.sleep(_LOOK_S)
        try:
            is_there = any(node["Alive"] for node in await asyncio.to_thread(ray.nodes))
        except RayError:
            is_there = False
        num_missed = 0 if is_there else num_missed + 1
    raise ResourceError("no node of the Ray cluster lives any more; the same command goes on once there is one")


async def _answer(reference: Any, what: str) -> Any:
    try:
        return await asyncio.wrap_future(reference.future())
    except RayError as error:
        raise failure_of(error, "a seat of the experiment", what) from error
