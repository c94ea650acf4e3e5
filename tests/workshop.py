"""Experiments of two small stages, and what stands in for the cluster that carries them out."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gkd_dist.errors import EngineError
from gkd_dist.experiments.plan import expand
from gkd_dist.experiments.schedule import Schedule
from gkd_dist.experiments.spec import Experiment
from gkd_dist.experiments.survey import Standing, survey

MODEL = {"student.model": "m", "teacher.model": "m"}


def experiment(*, steps: int = 3, seeds: Sequence[int] = (0, 1)) -> Experiment:
    """A teacher, and for each seed a student of it that is evaluated."""
    return Experiment.model_validate(
        {
            "title": "test",
            "seeds": list(seeds),
            "evaluations": {"greedy": {"task": "translation", "data": "test.jsonl"}},
            "stages": {
                "teacher": {"recipe": "tiny", "overrides": MODEL, "step_cpu_s": 2, "fixed_cpu_s": 0},
                "distil": {
                    "over": ["seed"],
                    "recipe": "tiny",
                    "overrides": {
                        "student.model": "m",
                        "teacher.model": "{stage:teacher}",
                        "learner.max_steps": steps,
                    },
                    "evaluate": ["greedy"],
                    "step_cpu_s": 10,
                    "fixed_cpu_s": 0,
                },
            },
        }
    )


@dataclass(frozen=True)
class Ending:
    exit_code: int
    wall_s: float = 2.0
    cpu_s: float = 3.0


@dataclass
class Workshop:
    """Stands in for the cluster: does what `gkd run` and `gkd eval` leave, at once or once it is told to go on."""

    num_cpus: float = 2.0
    num_gpus: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)
    """Exit codes other than 0, by a word of the command."""
    breaks: str | None = None
    """A seat for a command with this word is lost."""
    num_breaks: int = 99
    """So often, and then no more."""
    holds: bool = False
    """Commands end only when they are asked to stop."""
    is_full: bool = False
    """No seat is ever free."""
    calls: list[list[str]] = field(default_factory=list)
    most: int = 0
    """Most seats at once."""
    _taken: int = 0

    @asynccontextmanager
    async def seat(self, num_cpus: float, num_gpus: float) -> AsyncIterator["WorkshopSeat"]:
        if self.is_full:
            await asyncio.Event().wait()
        self._taken += 1
        self.most = max(self.most, self._taken)
        await asyncio.sleep(0)
        try:
            yield WorkshopSeat(self)
        finally:
            self._taken -= 1


class WorkshopSeat:
    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._asked = asyncio.Event()

    async def run(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Ending:
        shop = self._workshop
        arguments = list(command)[3:]  # python -m gkd_dist
        shop.calls.append(arguments)
        if shop.holds:
            await self._asked.wait()
            return Ending(75)
        if shop.breaks and shop.num_breaks and any(shop.breaks in word for word in arguments):
            shop.num_breaks -= 1
            raise EngineError("the node is gone")
        code = next((code for word, code in shop.codes.items() if any(word in each for each in arguments)), 0)
        if code == 0:
            code = leave_what_it_leaves(arguments)
        return Ending(code)

    async def stop(self) -> None:
        self._asked.set()


def leave_what_it_leaves(arguments: Sequence[str]) -> int:
    """Returns the exit code: like `gkd eval`, it refuses a folder with something in it."""
    settings = dict(word.split("=", 1) for word in arguments if "=" in word)
    if arguments[0] == "run":
        folder = Path(settings["output_dir"]) / "run-1"
        (folder / "final").mkdir(parents=True)
        (folder / "summary.json").write_text("{}")
        (folder.parent / "latest").symlink_to("run-1")
    else:
        output = Path(settings["output"])
        if output.exists() and any(output.iterdir()):
            return 2
        output.mkdir(exist_ok=True)
        (output / "results.json").write_text(json.dumps(list(arguments)))
    return 0


def carry_out(folder: Path, workshop: Workshop, spec: Experiment | None = None, **options: Any) -> Schedule:
    plan = expand(spec or experiment(), folder)

    async def go() -> Schedule:
        schedule = Schedule(survey(plan, folder), workshop, **options)
        await asyncio.wait_for(schedule.carry_out(asyncio.Event()), 20)
        return schedule

    return asyncio.run(go())


def standings(folder: Path, spec: Experiment | None = None) -> list[Standing]:
    return survey(expand(spec or experiment(), folder), folder)
