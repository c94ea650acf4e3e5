"""What `gkd run` does, from a configuration to an exit code (floor F5)."""

import asyncio
import logging
import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from gkd_dist.build.trackers import make_trackers
from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.load import dump_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import StalledError, StoppedEarlyError, StoppedError, plain
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Journal, Metrics, RecordSink
from gkd_dist.metrics.console import Narrator
from gkd_dist.metrics.discovery import server_targets
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.metrics.scrapes import Scrapes
from gkd_dist.metrics.sinks import JsonlSink, terminal_sink
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.chronicle import Chronicle
from gkd_dist.pipeline.durability import Durability
from gkd_dist.pipeline.evaluation import Evaluation
from gkd_dist.pipeline.evaluation_file import read_evaluation, write_evaluation
from gkd_dist.pipeline.job import Job, Outcome, distil
from gkd_dist.pipeline.phases import Phase
from gkd_dist.pipeline.recovery_point import find_recovery_point
from gkd_dist.pipeline.stage import Stage
from gkd_dist.pipeline.steering import Steering
from gkd_dist.pipeline.watchdog import Watchdog
from gkd_dist.preparation import prepare
from gkd_dist.preparation.prepared import PreparedJob
from gkd_dist.replay.ledger import Ledger
from gkd_dist.reporting import card_of, describe, report, sample_rows, teacher_counts, teacher_name
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.events import EventLog
from gkd_dist.runs.resume import Continuation, find_continuation, without_configuration
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.stop_signals import StopSignals, leave, noticing_signals, stopping_at_once
from gkd_dist.supervision.together import beside, unless_stopped

logger = logging.getLogger(__name__)

_LAST_SCRAPE_S = 20.0
"""Longer than the intervals of the configurations in deploy/."""


def run(config: RunConfig) -> int:
    """Distil, or go on with the run that this command began; returns 0 when the student is saved.

    Raises:
        StoppedError: asked to stop; the same command goes on.
        GkdError: what went wrong; its `exit_code` is the command's.
    """
    narrate = Narrator()
    continuation = find_continuation(config)
    with ExitStack() as stack:
        exporter = stack.enter_context(_closing(Exporter()))
        _serve(exporter, config, narrate)
        with stopping_at_once():
            prepared = prepare(config, narrate)
        for line in without_configuration(config, continuation):
            narrate(line)
        if continuation is not None:
            _attempt(prepared, continuation.directory, exporter, narrate, continuation)
        else:
            _say_what_is_left(config, narrate)
            directory = RunDirectory.create(config.output_dir, config.name)
            try:
                _attempt(prepared, directory, exporter, narrate)
            except BaseException:
                directory.discard_if_bare()
                raise
    return 0


def _say_what_is_left(config: RunConfig, narrate: Narrator) -> None:
    """A run that was begun and cannot be gone on with must not be left in silence."""
    former = next(iter(RunDirectory.all_of(config.output_dir, config.name)), None)
    if config.checkpoint.resume and former is not None and not former.is_finished and former.last_checkpoint is None:
        narrate(f"{former.path} is not finished, but has no checkpoint to go on from; starting anew")


def _attempt(
    prepared: PreparedJob,
    directory: RunDirectory,
    exporter: Exporter,
    narrate: Narrator,
    continuation: Continuation | None = None,
) -> None:
    """One start of a run."""
    config = prepared.blueprint.config
    with ExitStack() as stack:
        if continuation is None:  # nobody else knows of it yet, and a run without one is no run to other commands
            directory.write_config(dump_run_config(config))
        attempt = stack.enter_context(Attempt(directory))
        directory.write_config(dump_run_config(config))
        directory.write_versions()
        directory.point_latest()
        for line in describe(prepared):
            narrate(line)
        narrate(continuation.line(attempt.number) if continuation else f"run directory {directory.path}")
        metrics = _metrics(exporter, config)
        _name_run(metrics, config, directory)
        sinks: list[RecordSink] = [
            stack.enter_context(_closing(JsonlSink(directory.metrics))),
            stack.enter_context(_closing(terminal_sink(sys.stdout))),
            *(stack.enter_context(_closing(each)) for each in make_trackers(config, directory.path)),
        ]
        prepared = replace(prepared, blueprint=replace(prepared.blueprint, run_epoch=attempt.next_epoch()))
        outcome = asyncio.run(_distil(prepared, directory, attempt, metrics, exporter, sinks, narrate))
        narrate(f"done; student in {directory.final}")
        report(prepared, outcome, directory, narrate.elapsed_s)


async def _distil(
    prepared: PreparedJob,
    directory: RunDirectory,
    attempt: Attempt,
    metrics: Metrics,
    exporter: Exporter,
    sinks: Sequence[RecordSink],
    narrate: Narrator,
) -> Outcome:
    config = prepared.blueprint.config
    tell = EventLog(directory.events, attempt.number).write
    accounts = StepAccounts(
        max_steps=config.learner.max_steps, metrics=metrics, sinks=sinks, attempt=attempt.number, tell=tell
    )
    store, ledger = CheckpointStore(directory.checkpoints, config.checkpoint.save_total_limit), Ledger(directory.ledger)
    # What cannot be gone on with is refused before an engine starts.
    await store.disk.run(lambda: find_recovery_point(directory.name, store, ledger))
    narrate(f"starting {config.sampler.num_replicas} sampler(s), {teacher_counts(config)}, 1 learner")

    def leave_stalled(code: int) -> None:
        leave(code, lambda code: attempt.break_off(code, "StalledError: even the event loop stood still"))

    with StopSignals(narrate, attempt.break_off) as signals:
        async with (
            _end_scraped(accounts, exporter.scrapes),
            _started(prepared, directory, metrics, narrate, signals, leave_stalled) as (fleet, journal),
        ):
            exporter.set_ready()
            stage = Stage(tell=tell)
            steering = Steering(config, directory, fleet, accounts, stage, attempt.number, tell, journal)
            durability = Durability(
                store=store,
                ledger=ledger,
                config=config.checkpoint,
                attempt=attempt.number - 1,
                journal=journal,
            )
            job = Job(
                plan=prepared.plan(directory.name, directory.students),
                fleet=fleet,
                accounts=accounts,
                durability=durability,
                rules=config.supervision,
                held_out=prepared.held_out(directory.name) if config.evaluation.enabled else None,
                metrics=metrics,
                final=directory.final,
                diagnosis=directory.diagnosis,
                stop=signals.event,
                stage=stage,
                narrate=narrate,
                has_deadlines=config.cluster.mode == "ray",
                startup_timeout_s=config.cluster.startup_timeout_s,
                leave=leave_stalled,
                before=_before(directory),
                keep_before=lambda evaluation: _keep_before(prepared, evaluation, directory),
            )
            try:
                async with beside(steering.attend(), Chronicle(fleet, tell).attend()):
                    outcome = await distil(job)
            except StoppedError as stopped:
                raise signals.error(str(directory.path)) from stopped
            finally:
                await durability.close()
    directory.write_card(card_of(prepared, outcome, _num_trained_tokens(stage)))
    return outcome


@asynccontextmanager
async def _end_scraped(accounts: StepAccounts, scrapes: Scrapes) -> AsyncIterator[None]:
    """A block that ends in order says so to whoever scrapes, who would take its silence for a death."""
    stopped: StoppedError | None = None
    try:
        yield
    except StoppedEarlyError:
        raise
    except StoppedError as error:
        stopped = error
    accounts.show("ended", 0)
    with noticing_signals() as is_signalled:
        await scrapes.wait(_LAST_SCRAPE_S, is_signalled)
    if stopped is not None:
        raise stopped


@asynccontextmanager
async def _started(
    prepared: PreparedJob,
    directory: RunDirectory,
    metrics: Metrics,
    narrate: Narrator,
    signals: StopSignals,
    leave_stalled: Callable[[int], object],
) -> AsyncIterator[tuple[Fleet, Journal | None]]:
    """Everything that computes, and the journal; closed with the block, and where a signal comes before it begins.

    Raises:
        StoppedEarlyError: one came.
        StalledError: no part has come up for too long (on Ray each has a deadline of its own before that), or closing
            them does not end. Where the block had failed before, its own error, and a line about closing.
    """
    config = prepared.blueprint.config
    stall_s, startup_s = config.supervision.stall_timeout_s, config.cluster.startup_timeout_s
    said, told_at, closing_at = [], time.monotonic(), math.inf
    failure: Exception | None = None

    def say(line: str) -> None:
        nonlocal told_at
        said.append(line)
        told_at = time.monotonic()
        narrate(line)

    def watchdog(phase: Phase, idle_s: Callable[[], float], timeout_s: float, file: Path) -> Watchdog:
        """Failures have words of their own."""
        tell = partial(dict, said=said)
        return Watchdog(phase, idle_s, timeout_s, file, tell, spare=(Exception,), exit=leave_stalled)

    # How the run ended comes before what closing it shows: another file.
    closing_file = directory.diagnosis.with_name("diagnosis-closing.json")
    closing = watchdog(Phase.CLOSING, lambda: max(0.0, time.monotonic() - closing_at), stall_s, closing_file)
    starting = watchdog(Phase.STARTING, lambda: time.monotonic() - told_at, stall_s + startup_s, directory.diagnosis)
    try:
        async with closing, AsyncExitStack() as stack:

            async def start() -> tuple[Fleet, Journal | None]:
                fleet = prepared.blueprint.fleet(metrics, say=say, when_connected=signals.install)
                running = await stack.enter_async_context(fleet)
                return running, await stack.enter_async_context(prepared.blueprint.journal(directory.journal))

            try:
                async with starting:
                    parts = await unless_stopped(signals.event, start())
                if parts is None:
                    raise signals.error(str(directory.path))
                signals.begin()
                narrate("all engines are up")
                yield parts
            except Exception as error:
                failure = error
                raise
            finally:
                closing_at = time.monotonic()
    except StalledError as stalled:
        if failure is None or stalled is failure or isinstance(failure, StoppedError):
            raise
        logger.error("after the failure: %s", stalled)
    if failure is not None:  # outside the handler: its own cause and context stay as they are
        raise failure


def _num_trained_tokens(stage: Stage) -> int:
    """Over all starts of the run."""
    return stage.ring.progress.num_trained_tokens if stage.ring is not None else 0


def _keep_before(prepared: PreparedJob, evaluation: Evaluation, directory: RunDirectory) -> None:
    write_evaluation(evaluation, directory.before)
    directory.write_samples(sample_rows(prepared, evaluation))


def _before(directory: RunDirectory) -> Evaluation | None:
    return read_evaluation(directory.before)


def _serve(exporter: Exporter, config: RunConfig, narrate: Narrator) -> None:
    """Serve metrics where the configuration asks for that."""
    if config.metrics.port is not None:
        exporter.announce(server_targets(config))
        port = exporter.serve(config.metrics.host, config.metrics.port)
        narrate(f"metrics at http://{config.metrics.host}:{port}/metrics")


def _metrics(exporter: Exporter, config: RunConfig) -> Metrics:
    """Where the run's numbers go: to the exporter, and to Ray where the configuration asks for that."""
    if not config.metrics.ray_bridge:
        return exporter
    from gkd_dist.cluster.ray_metrics import RayMetrics

    return RayMetrics(exporter)


def _name_run(metrics: Metrics, config: RunConfig, directory: RunDirectory) -> None:
    """Set what is constant over the run."""
    metrics.gauge(
        "gkd_run_info",
        1,
        run=directory.name,
        student=config.student.model,
        teacher=teacher_name(config),
        divergence=config.objective.divergence,
    )
    metrics.gauge("gkd_run_max_steps", config.learner.max_steps)
    metrics.gauge("gkd_staleness_limit_versions", config.max_staleness)
    metrics.gauge("gkd_checkpoint_interval_steps", config.checkpoint.save_steps)


class _Closable(Protocol):
    def close(self) -> None: ...


_Held = TypeVar("_Held", bound=_Closable)


@contextmanager
def _closing(held: _Held) -> Iterator[_Held]:
    """As `contextlib.closing`, but an error of the block is never hidden by one of closing: that is logged."""
    try:
        yield held
    except BaseException:
        try:
            held.close()
        except Exception as closing:
            logger.warning("closing after a failure failed too: %s", plain(closing))
        raise
    held.close()
