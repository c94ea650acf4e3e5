"""What `gkd experiment` does, from a name to an exit code (floor F5)."""

import asyncio
import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gkd_dist import __version__
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.yaml_text import format_yaml
from gkd_dist.errors import DataError, EngineError, RunError, StoppedError
from gkd_dist.experiments.catalogue import experiment_names, experiment_scales, experiment_title
from gkd_dist.experiments.inputs import input_problems, question_problems, scarce_rows
from gkd_dist.experiments.launching import Launcher
from gkd_dist.experiments.progress import (
    cost_table,
    log_tail,
    measured_cpu_s,
    remaining_cpu_s,
    state_document,
    status_record,
)
from gkd_dist.experiments.record import now
from gkd_dist.experiments.request import Request, open_experiment
from gkd_dist.experiments.schedule import Schedule
from gkd_dist.experiments.spec import Experiment
from gkd_dist.experiments.survey import Standing, move_changed, note_inputs, survey
from gkd_dist.metrics.console import Narrator, print_table
from gkd_dist.metrics.sinks import PlainLines, StatusLine, duration, terminal_sink
from gkd_dist.runs.documents import replace_file
from gkd_dist.runs.lock import Holder, RunLock
from gkd_dist.runs.run_directory import check_output_dir
from gkd_dist.stop_signals import StopSignals

_LIVE_S = 2.0
_PLAIN_S = 60.0
"""Between two status lines, on a terminal and elsewhere."""
_WANT = "no node had room for it any more"
_OBJECT_STORE_BYTES = 80_000_000
"""Nothing but commands and exit codes goes through Ray."""


@dataclass(frozen=True)
class _Outcome:
    stopped_by: str | None = None
    """Name of a signal."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why runs are missing, by name."""


def list_experiments() -> int:
    """Prints the packaged ones with their scales, the first of which is the default; returns 0."""
    names = experiment_names()
    width = max(map(len, names))
    for name in names:
        scales = ", ".join(experiment_scales(name))
        print(f"{name:{width}}  {experiment_title(name)}{f' [{scales}]' if scales else ''}")
    return 0


def dry_run(request: Request) -> int:
    """Prints the runs, in order, with what they would cost; starts and writes nothing; returns 0.

    What runs read and is not there is told; that of earlier runs cannot be looked at yet.
    """
    opened = open_experiment(request)
    if opened.experiment.fit is not None:
        print(f"{request.name}: one fit, in this process, seconds; writes to {opened.folder}")
        return 0
    for run in opened.plan:
        waits = f"  after {', '.join(run.waits_for)}" if run.waits_for else ""
        print(f"{run.name}{waits}")
        for arguments in (run.arguments, *(evaluation.arguments for evaluation in run.evaluations)):
            print(f"  gkd {shlex.join(arguments)}" if arguments else f"  is there: {run.output}")
    table = cost_table(opened.plan)
    print_table(sys.stdout, opened.experiment.title, ["stage", "runs", "CPU h (estimate)"], table)
    problems = input_problems(opened.plan, opened.folder) or question_problems(opened.plan)
    for problem in problems:
        print(f"a start would be refused: {problem}")
    for note in [] if problems else scarce_rows(opened.plan, opened.folder):
        print(f"note: {note}")
    return 0


def report_only(request: Request) -> int:
    """Makes tables and plots of what is finished; returns 0."""
    opened = open_experiment(request)
    experiment, folder = opened.experiment, opened.folder
    if experiment.fit is not None:
        return _fit(experiment, folder)
    _report(experiment, survey(opened.plan, folder), folder)
    return 0


def run_experiment(request: Request) -> int:
    """Does what is left of an experiment, and makes tables and plots of what is finished; returns 0.

    Raises:
        EngineError: runs failed; which, and where their logs are.
        StoppedError: asked to stop; the same command goes on.
        UserError: what cannot be started, told before anything is.
    """
    opened = open_experiment(request, reads=True)
    experiment, folder, scale, plan = opened.experiment, opened.folder, opened.scale, opened.plan
    check_output_dir(request.output_dir)
    if experiment.fit is not None:
        return _fit(experiment, folder)
    problems = question_problems(plan)
    if problems:
        raise DataError("\n".join(problems))
    narrate = Narrator()
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if request.replace_changed:
            for moved in move_changed(plan, folder):
                narrate(f"another configuration than before; put aside: {moved}")
        standings = survey(plan, folder)
        note_inputs(standings)
        replace_file(folder / "experiment.yaml", _text_of(experiment))
        for note in scarce_rows(plan, folder):
            narrate(note)
        _say_what_is_left(standings, folder, narrate)
        outcome = _carry_out(request, standings, folder, scale, narrate)
        _report(experiment, standings, folder)
        _say_cost(standings, narrate)
        for name, why in outcome.failures.items():
            narrate(f"missing: {name}: {why}")
            for line in log_tail(folder / "runs" / name / "log.txt"):
                narrate(f"    {line}")
    if outcome.stopped_by is not None:
        raise StoppedError(f"{outcome.stopped_by}: stopped in order; the same command goes on with {folder}")
    if outcome.failures:
        raise EngineError(f"{len(outcome.failures)} of {len(plan)} runs are missing; the same command tries them again")
    return 0


def _fit(experiment: Experiment, folder: Path) -> int:
    from gkd_dist.experiments.fit_report import write_fit

    if experiment.fit is not None:
        for line in write_fit(experiment.title, experiment.fit, folder):
            print(line)
    return 0


def _text_of(experiment: Experiment) -> str:
    """YAML that `gkd experiment` reads as the same experiment, with all that the command line said."""
    return format_yaml(experiment.model_dump(mode="json", exclude={"scales"}, exclude_defaults=True))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time works on an experiment.

    Raises:
        RunError: another one does.
    """
    try:
        lock = RunLock(folder / "lock")
    except RunError as error:
        raise RunError(str(error).partition("; ")[0] + "; stop it, or choose another --output-dir") from error
    try:
        lock.write(Holder(run_epoch="experiment", host=socket.gethostname(), pid=os.getpid(), started_at=now()))
        yield
    finally:
        lock.close()


def _say_what_is_left(standings: Sequence[Standing], folder: Path, narrate: Narrator) -> None:
    done = sum(each.is_done for each in standings)
    begun = sum(each.is_begun and not each.is_done for each in standings)
    hours = remaining_cpu_s(standings) / 3600
    narrate(f"{folder}: {len(standings)} runs, {done} finished, {begun} begun; about {hours:.2f} CPU hours to go")
    former = ", ".join(version for version in _versions(standings) if version != __version__)
    if former:
        narrate(f"some of it was done by another version: {former}; this is {__version__}")


def _versions(standings: Sequence[Standing]) -> list[str]:
    """Of this package, by which something was done."""
    parts = (part for each in standings if each.record for part in each.record.parts)
    return sorted({part.version or "unknown" for part in parts})


def _say_cost(standings: Sequence[Standing], narrate: Narrator) -> None:
    cpu_s = measured_cpu_s(standings)
    narrate(f"CPU time of all attempts so far: {duration(cpu_s)} ({cpu_s / 3600:.2f} h)")


def _carry_out(
    request: Request, standings: Sequence[Standing], folder: Path, scale: str, narrate: Narrator
) -> _Outcome:
    if all(each.is_done for each in standings):
        return _Outcome()
    from gkd_dist.cluster.seats import Seats
    from gkd_dist.cluster.session import ray_session

    with ray_session(ClusterConfig(address=request.address, object_store_bytes=_OBJECT_STORE_BYTES)):
        return asyncio.run(_schedule(request, standings, folder, scale, Seats(), narrate))


async def _schedule(
    request: Request,
    standings: Sequence[Standing],
    folder: Path,
    scale: str,
    launcher: Launcher,
    narrate: Narrator,
) -> _Outcome:
    def changed() -> None:
        text = json.dumps(state_document(request.title, scale, schedule), indent=1)
        replace_file(folder / "experiment.json", text + "\n", survives_power_cut=False)

    with StopSignals(_said_by(narrate)) as signals:
        schedule = Schedule(standings, launcher, changed=changed, tell=narrate, max_cpus=request.num_cpus)
        changed()
        sink = terminal_sink(sys.stdout)
        ticking = asyncio.create_task(_tick(sink, schedule))
        try:
            await schedule.carry_out(signals.event)
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            sink.write(status_record(schedule))
            sink.close()
            changed()
        missing = {name: state for name, state in schedule.states.items() if state not in ("done", "stopped")}
        if signals.is_requested:
            missing = {name: state for name, state in missing.items() if state != "waiting"}
        return _Outcome(signals.received, {name: schedule.failures.get(name, _WANT) for name in missing})


def _said_by(narrate: Narrator) -> Callable[[str], object]:
    return lambda _: narrate("stopping: runs save a checkpoint first; another Ctrl-C stops at once")


async def _tick(sink: StatusLine | PlainLines, schedule: Schedule) -> None:
    """Show how far it is, for ever."""
    while True:
        sink.write(await asyncio.to_thread(status_record, schedule))
        await asyncio.sleep(_LIVE_S if isinstance(sink, StatusLine) else _PLAIN_S)


def _report(experiment: Experiment, standings: Sequence[Standing], folder: Path) -> None:
    """Tables and plots of every evaluation that is done, and of what runs measured themselves."""
    from gkd_dist.experiments.report import write_report
    from gkd_dist.experiments.resampling import measure

    # Those without an evaluation too: they may have measured themselves.
    measured = [(each.run, _done_folders(each)) for each in standings if each.is_trained]
    facts: dict[str, Any] = {
        "runs": len(standings),
        "finished": sum(each.is_done for each in standings),
        "cpu_s": round(measured_cpu_s(standings), 1),
        "versions": _versions(standings),
    }
    for line in write_report(experiment, measure(measured), folder, facts):
        print(line)
    others = _not_selected(standings, folder)
    if others:
        print(f"left out, for they are not selected: {len(others)} runs of {folder / 'runs'}: {', '.join(others)}")


def _not_selected(standings: Sequence[Standing], folder: Path) -> list[str]:
    """Names of runs that another selection has left in the same folder."""
    there = {record.parent.name for record in folder.glob("runs/*/run.json")}
    return sorted(there - {each.run.name for each in standings})


def _done_folders(standing: Standing) -> list[Path]:
    left = {evaluation.name for evaluation, _ in standing.evaluations}
    return [each.folder for each in standing.run.evaluations if each.name not in left]
