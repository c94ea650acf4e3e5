"""Parts that do in their own process what a test writes into a folder; they travel to actors by value.

A test writes files: `hold` makes all requests wait while it is there, `hold-PID` those of one process, `die-in-load`
ends one when it is told to load weights, `refuse` makes every start fail, `lie-PID` makes a teacher answer wrongly.
A part writes `started-PID`, `asked-PID` with one line per request, `cancelled-PID` when one was given up, and
`child-PID` with the pid of its child.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray

from gkd_dist.errors import EngineError
from gkd_dist.supervision.pool import Pool
from gkd_dist.targets import HiddenTargets, TargetsHandle, TeacherTargets
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import Prompt, SamplingParams, StepReport, TrainBatch, Trajectory, WeightPublication

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Folder:
    """The files of a test, seen by one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if (path / "refuse").exists():
            raise EngineError("this engine does not start")
        (path / f"started-{os.getpid()}").touch()

    def says(self, word: str) -> bool:
        return (self.path / word).exists() or (self.path / f"{word}-{os.getpid()}").exists()

    async def ask(self, what: str) -> None:
        with (self.path / f"asked-{os.getpid()}").open("a") as file:
            file.write(f"{what}\n")
        try:
            while self.says("hold"):
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            (self.path / f"cancelled-{os.getpid()}").touch()
            raise


class MockSampler(FakeSampler):
    """With an engine in a child process that does nothing."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._folder = Folder(path)
        self._child = subprocess.Popen(["sleep", "600"])
        (path / f"child-{os.getpid()}").write_text(str(self._child.pid))

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        await self._folder.ask("sample")
        return await super().sample(prompts, params)

    async def load_weights(self, publication: WeightPublication) -> int:
        if self._folder.says("die-in-load"):
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().load_weights(publication)

    async def ping(self) -> None:
        if self._child.poll() is not None:
            raise EngineError("the engine's child is gone")

    async def close(self) -> None:
        self._child.kill()


class MockTeacher(FakeTeacher):
    def __init__(self, path: Path, num_floats: int = 4) -> None:
        super().__init__(hidden_size=num_floats)
        self._folder = Folder(path)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        await self._folder.ask("score")
        targets = await super().score(trajectories)
        if self._folder.says("lie"):
            return [HiddenTargets(np.zeros((99, 4), np.float32)) for _ in targets]
        return targets


class MockLearner(FakeLearner):
    def __init__(self, path: Path, restart: int = 0) -> None:
        super().__init__(str(restart))
        self._folder = Folder(path)

    async def train(self, batch: TrainBatch) -> StepReport:
        await self._folder.ask("train")
        return await super().train(batch)


async def until(condition: Callable[[], Any], limit_s: float = 90.0) -> None:
    """Wait for it, with a bound."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        await asyncio.sleep(0.05)


def asked(path: Path, pid: int) -> int:
    """How many requests the process has seen."""
    file = path / f"asked-{pid}"
    return len(file.read_text().splitlines()) if file.exists() else 0


def is_gone(pid: int) -> bool:
    """Dead; one that its parent has not looked at yet counts."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def processes(path: Path) -> list[int]:
    """All that ever started for this test."""
    parts = [int(file.name.removeprefix("started-")) for file in path.glob("started-*")]
    return parts + [int(file.read_text()) for file in path.glob("child-*")]


@asynccontextmanager
async def running(pool: Pool[Any], path: Path) -> AsyncIterator[Pool[Any]]:
    """A supervised pool; at the end no process of the test is left."""
    await pool.start()
    await pool.bring_up(_nothing)
    supervision = asyncio.create_task(pool.supervise())
    try:
        yield pool
    finally:
        supervision.cancel()
        await asyncio.gather(supervision, return_exceptions=True)
        await pool.close()
    await until(lambda: all(map(is_gone, processes(path))))


async def _nothing(replica: object) -> None:
    """No weights yet."""


def pid_of(pool: Pool[Any], index: int) -> int:
    """Of the serving replica at this place."""
    return int(pool.serving[index].place.process.pid)
