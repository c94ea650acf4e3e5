"""One run through the command's own door, with or without faults beside it, and what it left."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from gkd_dist.config.load import load_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.distillation import command
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.job import Job, Outcome, distil
from gkd_dist.replay.ledger import Ledger
from gkd_dist.runs.control import scale
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.supervision.together import beside
from tests.soak.injector import LEARNER, Fault, Injected, Injector, Menu, num_healed, processes

_CONVERGE_S = 120.0


@dataclass
class Course:
    """What became of one run."""

    config: RunConfig
    directory: RunDirectory
    exit_code: int
    training_s: float = 0.0
    """From the first step of the first learner to the last step of the last one, restarts included."""
    injected: list[Injected] = field(default_factory=list)
    healed: Counter[str] = field(default_factory=Counter)
    """By role: struck replicas in whose slot another one served afterwards."""
    targets: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By role: asked for last, and serving at the end."""
    pids: set[int] = field(default_factory=set)
    """Every process that replicas and learners ran in."""

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.directory.ledger)

    @property
    def num_trained_tokens(self) -> int:
        """Of the steps that count: those of a time line that a restart took back do not."""
        by_step = {}
        for line in self.directory.metrics.read_text().splitlines():
            record = json.loads(line)
            by_step[record["step"]] = int(record["trained_tokens"])
        return sum(by_step.values())

    @property
    def held_out(self) -> dict[str, dict[str, float]]:
        """`before` and `after`, nats by name."""
        summary = json.loads(self.directory.summary.read_text())
        return {when: summary[when] for when in ("before", "after")}

    @property
    def num_faults(self) -> Counter[str]:
        """By kind and role, such as `kill sampler`."""
        return Counter(f"{each.fault} {each.role}" for each in self.injected)


def run(overrides: list[str]) -> Course:
    """A run as `gkd run tiny` with these overrides."""
    return _run(load_run_config("tiny", overrides), None, 0, 0, print)


def run_with_faults(
    overrides: list[str], menu: Menu, *, seed: int, last_step: int, log: Callable[[str], None] = print
) -> Course:
    """The same with faults from the first step on.

    Args:
        last_step: nothing is injected after it, so that what was struck can heal before the run ends.
        log: told about every fault.
    """
    return _run(load_run_config("tiny", overrides), menu, seed, last_step, log)


def _run(config: RunConfig, menu: Menu | None, seed: int, last_step: int, log: Callable[[str], None]) -> Course:
    witness = _Witness(menu, seed, last_step, log)
    with mock.patch.object(command, "distil", witness.distil):  # all else is the product's
        exit_code = command.run(config)
    directory = RunDirectory.find("latest", config.output_dir)
    course = Course(config, directory, exit_code, training_s=witness.ended - witness.began, pids=witness.pids)
    if witness.injector is not None:
        course.injected = witness.injector.injected
        course.healed, course.targets = witness.healed, witness.targets
    return course


class _Witness:
    """Stands beside a job: injects faults while it trains, and notes what became of the replicas."""

    def __init__(self, menu: Menu | None, seed: int, last_step: int, log: Callable[[str], None]) -> None:
        self._menu = menu
        self._seed = seed
        self._last_step = last_step
        self._log = log
        self.injector: Injector | None = None
        self.began = self.ended = 0.0
        self.healed: Counter[str] = Counter()
        self.targets: dict[str, tuple[int, int]] = {}
        self.pids: set[int] = set()

    async def distil(self, job: Job) -> Outcome:
        works = [self._note_learners(job)]
        if self._menu is not None:
            directory = RunDirectory(job.final.parent)

            def scale_run(role: str, target: int) -> None:
                if role == "sampler":
                    scale(directory, samplers=target)
                else:
                    scale(directory, teachers={role: target})

            self.injector = Injector(
                job.fleet,
                self._menu,
                seed=self._seed,
                scale=scale_run,
                is_over=lambda: _step(job) >= self._last_step,
                log=self._log,
            )
            works.append(self._inject(job, self.injector))
        async with beside(*works):
            outcome = await distil(replace(job, narrate=self._timed(job.narrate)))
        pools = _pools(job.fleet)
        if self.injector is not None:
            async with beside(*(pool.supervise() for pool in pools.values())):
                await self._converge(pools, self.injector)
            for role, pool in pools.items():
                self.healed[role] = num_healed(pool, role, self.injector.injected)
                self.targets[role] = (self.injector.targets[role], len(pool.serving))
        for pool in pools.values():
            self.pids |= processes(pool)
        return outcome

    def _timed(self, narrate: Callable[[str], None]) -> Callable[[str], None]:
        def timed(text: str) -> None:
            now = time.monotonic()
            if text.startswith("training for") and not self.began:
                self.began = now
            if text.startswith("saving the student"):
                self.ended = now
            narrate(text)

        return timed

    async def _inject(self, job: Job, injector: Injector) -> None:
        while _step(job) == 0:
            await asyncio.sleep(0.05)
        await injector.run()

    async def _note_learners(self, job: Job) -> None:
        """A learner that serves after one was struck is a healing."""
        while True:
            place: Any = getattr(job.fleet.learner, "place", None)
            if place is not None and place.process.pid not in self.pids:
                self.healed[LEARNER] += bool(self.began)
                self.pids.add(place.process.pid)
            await asyncio.sleep(0.1)

    async def _converge(self, pools: dict[str, Any], injector: Injector) -> None:
        end = time.monotonic() + _CONVERGE_S
        while time.monotonic() < end:
            if all(len(pool.serving) == injector.targets[role] == pool.target for role, pool in pools.items()):
                return
            await asyncio.sleep(0.1)


def _pools(fleet: Fleet) -> dict[str, Any]:
    return {"sampler": fleet.samplers, **fleet.teachers}


def _step(job: Job) -> int:
    return 0 if job.stage.ring is None else job.stage.ring.progress.step


def num_strikes(injected: list[Injected]) -> int:
    """Faults that something has to heal from."""
    return sum(each.fault is not Fault.SCALE for each in injected)
