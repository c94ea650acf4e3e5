"""The runs of an experiment side by side, each as soon as those it waits for are trained."""

import asyncio
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

from gkd_dist import __version__
from gkd_dist.errors import EngineError, ResourceError
from gkd_dist.experiments.launching import Launcher, Seat
from gkd_dist.experiments.plan import PlannedRun
from gkd_dist.experiments.record import TRAIN, Part, RunRecord, log_path, now, put_aside, write_record
from gkd_dist.experiments.survey import Standing

State = Literal["waiting", "running", "done", "failed", "blocked", "stopped"]
"""`blocked`: one of those it waits for failed."""
_STOPPED = frozenset({75, 130, 143, -2, -15})
"""Exit codes of a command that did as it was asked to."""
_MAX_LOSSES = 3
"""Of one run: machines or processes that are gone say nothing about the run, until it is always the same one."""


class Schedule:
    """Carries out what is left of the runs.

    Args:
        standings: in an order in which each run comes after those it waits for.
        changed: called whenever the state of a run changes.
        tell: gets a line for each run that fails or begins again.
        max_cpus: no more than these at once; None: all that the launcher has.

    Raises:
        ResourceError: a run asks for more processors than there are.
    """

    def __init__(
        self,
        standings: Sequence[Standing],
        launcher: Launcher,
        *,
        changed: Callable[[], object] = lambda: None,
        tell: Callable[[str], object] = lambda _: None,
        max_cpus: float | None = None,
    ) -> None:
        self.standings = {each.run.name: each for each in standings}
        self.states: dict[str, State] = {
            name: "done" if each.is_done else "waiting" for name, each in self.standings.items()
        }
        self.failures: dict[str, str] = {}
        """Of failed runs: what failed, in one line."""
        self._launcher = launcher
        self._changed = changed
        self._tell = tell
        self._max_cpus = math.inf if max_cpus is None else max_cpus
        self._trained = {name for name, each in self.standings.items() if each.is_trained}
        self._seats: dict[str, Seat] = {}
        self._is_stopping = False
        self._news = asyncio.Event()
        """Set when something may have become startable while its predecessor is still at work."""
        for each in standings:
            if not each.is_done:
                self._check_size(each.run)

    @property
    def num_parallel_cpus(self) -> float:
        """That work can use at once."""
        return min(self._max_cpus, self._launcher.num_cpus)

    def running(self) -> list[str]:
        return [name for name, state in self.states.items() if state == "running"]

    async def carry_out(self, stop: asyncio.Event) -> None:
        """Until nothing more can be done, or, after `stop`, until what runs has ended in order.

        Cancelled, it ends what runs at once.

        Raises:
            ResourceError: nothing can run any more.
        """
        tasks: dict[asyncio.Task[None], str] = {}
        stopping = asyncio.ensure_future(stop.wait())
        news = asyncio.ensure_future(self._news.wait())
        try:
            while True:
                if news.done():
                    self._news.clear()
                    news = asyncio.ensure_future(self._news.wait())
                if not self._is_stopping:
                    for name in self._startable():
                        self._set(name, "running")
                        tasks[asyncio.create_task(self._carry_out(self.standings[name]))] = name
                if not tasks:
                    return
                watched = {*tasks, news} if self._is_stopping else {*tasks, news, stopping}
                done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in tasks if task in done]:
                    del tasks[task]
                    if not task.cancelled():
                        task.result()
                if stopping.done() and not self._is_stopping:
                    await self._stop(tasks)
        finally:
            for waiting in (stopping, news, *tasks):
                waiting.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _check_size(self, run: PlannedRun) -> None:
        """Raise ResourceError where `run` could never start."""
        sizes = (("CPUs", run.num_cpus, self.num_parallel_cpus), ("GPUs", run.num_gpus, self._launcher.num_gpus))
        for what, wanted, there in sizes:
            if wanted > there:
                asked = f"{run.name} asks for {wanted:g}; add nodes, or lower num_{what.lower()}"
                raise ResourceError(f"there are {there:g} {what}, and {asked}")

    def _startable(self) -> list[str]:
        """Of what waits, all that fits beside what runs; what can never start is marked."""
        running = [self.standings[name].run for name in self.running()]
        cpus = self.num_parallel_cpus - sum(run.num_cpus for run in running)
        gpus = self._launcher.num_gpus - sum(run.num_gpus for run in running)
        names = []
        for name, standing in self.standings.items():
            if self.states[name] != "waiting":
                continue
            needed = standing.run.waits_for
            lost = [each for each in needed if each not in self._trained and self.states[each] in ("failed", "blocked")]
            if lost:
                self.failures[name] = f"needs {lost[0]}"
                self._set(name, "blocked")
            elif self._trained.issuperset(needed) and standing.run.num_cpus <= cpus and standing.run.num_gpus <= gpus:
                cpus -= standing.run.num_cpus
                gpus -= standing.run.num_gpus
                names.append(name)
        return names

    async def _carry_out(self, standing: Standing) -> None:
        """On one seat; on another one as often as the process or its machine is lost."""
        name, losses = standing.run.name, 0
        while True:
            try:
                state, failure = await self._seated(standing)
                break
            except (_LostError, EngineError) as lost:
                losses += 1
                if losses == _MAX_LOSSES or self._is_stopping:
                    state, failure = "failed", str(lost)
                    break
                self._tell(f"{name}: {lost}; begun again ({losses} of {_MAX_LOSSES - 1})")
            except OSError as error:
                state, failure = "failed", str(error)
                break
        if failure is not None:
            self.failures[name] = failure
            self._tell(f"{name} failed: {failure}")
        self._set(name, state)

    async def _seated(self, standing: Standing) -> tuple[State, str | None]:
        async with self._launcher.seat(standing.run.num_cpus, standing.run.num_gpus) as seat:
            self._seats[standing.run.name] = seat
            try:
                return await self._parts(standing, seat)
            finally:
                del self._seats[standing.run.name]

    async def _parts(self, standing: Standing, seat: Seat) -> tuple[State, str | None]:
        """The command of a run, then its evaluations, as far as they are not done; one that fails is the last."""
        run = standing.run
        run.folder.mkdir(parents=True, exist_ok=True)
        if standing.record is None:
            standing.record = _new_record(standing)
            await asyncio.to_thread(write_record, run, standing.record)
        if not run.arguments and not standing.is_trained:
            return "failed", f"there is no {run.output}, and nothing here makes it"
        if not standing.is_trained:
            code = await self._part(standing, seat, TRAIN, standing.identity, run.arguments)
            if code != 0:
                return self._ended(standing, TRAIN, code)
            if not run.output.exists():
                return "failed", f"{TRAIN} left no {run.output} (log: {log_path(run)})"
            standing.is_trained = True
        self._trained.add(run.name)
        self._news.set()
        self._changed()
        for evaluation, identity in list(standing.evaluations):
            evaluation.folder.parent.mkdir(exist_ok=True)
            await asyncio.to_thread(put_aside, evaluation, run)
            code = await self._part(standing, seat, evaluation.name, identity, evaluation.arguments)
            if code != 0:
                return self._ended(standing, evaluation.name, code)
            if not evaluation.output.is_file():
                return "failed", f"{evaluation.name} wrote no {evaluation.output} (log: {log_path(run)})"
            standing.evaluations.remove((evaluation, identity))
            self._changed()
        return "done", None

    async def _part(self, standing: Standing, seat: Seat, part: str, identity: str, arguments: Sequence[str]) -> int:
        run, began = standing.run, now()
        threads = str(max(1, math.ceil(run.num_cpus)))
        environment = {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, "-m", "gkd_dist", *arguments]
        ending = await seat.run(command, log_path(run), environment)
        done = Part(
            part=part,
            identity=identity,
            started_at=began,
            wall_s=round(ending.wall_s, 3),
            cpu_s=round(ending.cpu_s, 3),
            exit_code=ending.exit_code,
            version=__version__,
        )
        record = (standing.record or _new_record(standing)).with_inputs(part, standing.inputs[part])
        standing.record = record.model_copy(update={"parts": [*record.parts, done]})
        await asyncio.to_thread(write_record, run, standing.record)
        return ending.exit_code

    def _ended(self, standing: Standing, part: str, code: int) -> tuple[State, str | None]:
        """What a command comes to that did not end with 0.

        Raises:
            _LostError: it was killed, and not by us: for want of memory, say.
        """
        if self._is_stopping and code in _STOPPED:
            return "stopped", None
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        failure = f"{part} ended with {how} (log: {log_path(standing.run)})"
        if code < 0:
            raise _LostError(failure)
        return "failed", failure

    async def _stop(self, tasks: Mapping[asyncio.Task[None], str]) -> None:
        self._is_stopping = True
        for task, name in tasks.items():
            if name not in self._seats:  # it waits for one, perhaps for ever
                task.cancel()
                self._set(name, "stopped")
        for seat in list(self._seats.values()):
            with suppress(EngineError):
                await seat.stop()

    def _set(self, name: str, state: State) -> None:
        self.states[name] = state
        self._changed()


class _LostError(Exception):
    """A command was killed."""


def _new_record(standing: Standing) -> RunRecord:
    inputs = {TRAIN: standing.inputs[TRAIN]}
    return RunRecord(identity=standing.identity, settings=standing.settings, inputs=inputs)
