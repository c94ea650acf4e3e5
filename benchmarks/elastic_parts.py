"""Engines that compute nothing and take a fixed time per token, and whoever looks at the ring that turns over them.

A sampler spends its time on the tokens it writes, a teacher on those it reads, one request after the other. Each keeps
to its own time table, so that a late wake-up of a busy machine does not add up: an engine with a queue delivers exactly
one token per `token_s`.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic

import ray

from gkd_dist.supervision.slots import Replica
from gkd_dist.targets import TargetsHandle, TeacherTargets
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import Prompt, SamplingParams, StepReport, TrainBatch, Trajectory

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Lane:
    """One thing at a time; `work` returns when this piece would be done."""

    def __init__(self, token_s: float) -> None:
        self._token_s = token_s
        self._free_at = 0.0

    async def work(self, num_tokens: int) -> None:
        now = time.monotonic()
        self._free_at = max(now, self._free_at) + num_tokens * self._token_s
        await asyncio.sleep(self._free_at - now)


class Diary:
    """When this process gave its first answer, as `KIND-first-PID` in a folder: seconds since the epoch."""

    def __init__(self, folder: Path | None, kind: str) -> None:
        self._file = None if folder is None else folder / f"{kind}-first-{os.getpid()}"

    def answered(self) -> None:
        if self._file is not None:
            self._file.write_text(repr(time.time()))
            self._file = None


class TimedSampler(FakeSampler):
    def __init__(self, token_s: float, folder: Path | None = None) -> None:
        super().__init__()
        self._lane = Lane(token_s)
        self._diary = Diary(folder, "sampler")

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        await self._lane.work(len(prompts) * params.max_new_tokens)
        answers = [self._answer(prompt, params) for prompt in prompts]
        self._diary.answered()
        return answers


class TimedTeacher(FakeTeacher):
    def __init__(self, token_s: float, hidden_size: int, folder: Path | None = None) -> None:
        super().__init__(hidden_size=hidden_size)
        self._lane = Lane(token_s)
        self._diary = Diary(folder, "teacher")

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        await self._lane.work(sum(each.num_tokens for each in trajectories))
        targets = [self._targets(each) for each in trajectories]
        self._diary.answered()
        return targets


class CountingLearner(FakeLearner):
    """Counts steps instead of keeping batches: a long run must not grow."""

    def __init__(self, restart: int = 0) -> None:
        super().__init__(f"elastic-{restart:04d}")
        self._num_steps = 0

    @property
    def policy_version(self) -> int:
        return self._num_steps

    async def train(self, batch: TrainBatch) -> StepReport:
        self._num_steps += 1
        num_tokens = sum(each.trajectory.num_completion_tokens for each in batch.scored)
        return StepReport(batch.step, self._num_steps, 1.0, 1.0, 1e-4, len(batch.scored), num_tokens)


class InProcess(Generic[Replica]):
    """Implements `supervision.slots.Launcher` without processes: what is left is the controller."""

    def __init__(self, make: Callable[[], Replica]) -> None:
        self._make = make

    async def start(self, _slot: int) -> Replica:
        return self._make()

    async def probe(self, replica: Replica) -> None:
        """It lives as long as this process."""

    async def kill(self, replica: Replica) -> None:
        """Nothing runs."""

    def waits_for(self, slot: int) -> str:  # noqa: ARG002 - of the Protocol
        return ""

    def describe(self, replica: Replica) -> dict[str, str | int]:
        return {"type": type(replica).__name__}


class Pace:
    """Implements `interfaces.RecordSink`: how many sequences were trained on, and when."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = [(time.time(), 0)]
        """(seconds since the epoch, sequences so far), one per step."""

    def write(self, record: dict[str, float | int | str]) -> None:
        number = int(record["student_sequences"]) + int(record["fixed_sequences"])
        self.marks.append((time.time(), self.num_trained + number))

    def close(self) -> None:
        """Nothing is open."""

    @property
    def num_trained(self) -> int:
        return self.marks[-1][1]

    def rate(self, since: float, until: float) -> float:
        """Sequences per second between two moments, from the last steps before them."""
        return (self._before(until) - self._before(since)) / (until - since)

    def _before(self, when: float) -> float:
        """Sequences trained on by `when`; between two steps in proportion."""
        for (left, low), (right, high) in zip(self.marks, self.marks[1:], strict=False):
            if left <= when < right:
                return low + (high - low) * (when - left) / (right - left)
        return self.num_trained
