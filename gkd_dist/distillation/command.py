"""One start of a run: prepared, begun or gone on with, distilled, reported."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from gkd_dist.build.trackers import make_trackers
from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.closing import closing
from gkd_dist.config.load import dump_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.distillation.lifetime import started
from gkd_dist.distillation.looking import look
from gkd_dist.distillation.telemetry import end_scraped, metrics_of, name_run, serve
from gkd_dist.errors import StoppedError
from gkd_dist.interfaces import Metrics, RecordSink
from gkd_dist.metrics.console import Narrator
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.metrics.sinks import JsonlSink, terminal_sink
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.chronicle import Chronicle
from gkd_dist.pipeline.durability import Durability
from gkd_dist.pipeline.evaluation import Evaluation
from gkd_dist.pipeline.evaluation_file import read_evaluation, write_evaluation
from gkd_dist.pipeline.job import Job, Outcome, distil
from gkd_dist.pipeline.stage import Stage
from gkd_dist.pipeline.steering import Steering
from gkd_dist.preparation import PreparedJob, prepare
from gkd_dist.replay.ledger import Ledger
from gkd_dist.reporting import card_of, describe, report, sample_rows, teacher_counts
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.events import EventLog
from gkd_dist.runs.resume import Continuation, find_continuation, without_configuration
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.stop_signals import StopSignals, leave, stopping_at_once
from gkd_dist.supervision.together import beside


def run(config: RunConfig) -> int:
    """Distil, or go on with the run that this command began; returns 0 when the student is saved.

    Raises:
        StoppedError: asked to stop; the same command goes on.
        GkdError: what went wrong; its `exit_code` is the command's.
    """
    narrate = Narrator()
    continuation = find_continuation(config)
    with ExitStack() as stack:
        exporter = stack.enter_context(closing(Exporter()))
        serve(exporter, config, narrate)
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
        metrics = metrics_of(exporter, config)
        name_run(metrics, config, directory)
        sinks: list[RecordSink] = [
            stack.enter_context(closing(JsonlSink(directory.metrics))),
            stack.enter_context(closing(terminal_sink(sys.stdout))),
            *(stack.enter_context(closing(each)) for each in make_trackers(config, directory.path)),
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

    def leave_stalled(code: int) -> None:
        leave(code, lambda code: attempt.break_off(code, "StalledError: even the event loop stood still"))

    await look(
        directory.name,
        store,
        ledger,
        stall_timeout_s=config.supervision.stall_timeout_s,
        diagnosis=directory.diagnosis,
        leave=leave_stalled,
    )
    narrate(f"starting {config.sampler.num_replicas} sampler(s), {teacher_counts(config)}, 1 learner")
    with StopSignals(narrate, attempt.break_off) as signals:
        async with (
            end_scraped(accounts, exporter.scrapes),
            started(prepared, directory, metrics, narrate, signals, leave_stalled) as (fleet, journal),
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


def _num_trained_tokens(stage: Stage) -> int:
    """Over all starts of the run."""
    return stage.ring.progress.num_trained_tokens if stage.ring is not None else 0


def _keep_before(prepared: PreparedJob, evaluation: Evaluation, directory: RunDirectory) -> None:
    write_evaluation(evaluation, directory.before)
    directory.write_samples(sample_rows(prepared, evaluation))


def _before(directory: RunDirectory) -> Evaluation | None:
    return read_evaluation(directory.before)
