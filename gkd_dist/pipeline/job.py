"""One distillation job from end to end: check, evaluate, train, save, evaluate; and go on after a failure or a stop."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import DeadlineError, EngineError, LearnerLostError, ResourceError, StoppedError
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Metrics
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.assessment import ask_teachers, check_teachers, evaluate_held_out
from gkd_dist.pipeline.checkpointing import Checkpointer
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.durability import Durability
from gkd_dist.pipeline.evaluation import Evaluation, HeldOut
from gkd_dist.pipeline.job_watchdog import job_watchdog
from gkd_dist.pipeline.phases import Phase
from gkd_dist.pipeline.recovery import Recovered, recover
from gkd_dist.pipeline.ring import Plan
from gkd_dist.pipeline.stage import Stage
from gkd_dist.pipeline.teacher_answers import TeacherAnswers
from gkd_dist.pipeline.withdrawal import withdraw
from gkd_dist.supervision.together import beside

Narrate = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """Evaluations around the training; None where evaluation is off."""

    before: Evaluation | None
    after: Evaluation | None
    teachers: TeacherAnswers = field(default_factory=dict)
    """To the prompts that are shown; empty where the run was asked to stop meanwhile: all else was done."""


@dataclass(frozen=True)
class Job:
    """What a job consists of.

    Args:
        held_out: None skips both evaluations.
        has_deadlines: requests have deadlines of their own, shorter than that of the watchdog; in one process they
            have none.
        startup_timeout_s: what an engine may take to start.
        leave: ends the process with an exit code, when even its event loop does not react.
        final: receives the student.
        diagnosis: file that a stall or a failure is explained in.
        before: evaluation of the untrained student by a former start of the run.
        narrate: told in one line what happens next.
    """

    plan: Plan
    fleet: Fleet
    accounts: StepAccounts
    durability: Durability
    rules: SupervisionConfig
    held_out: HeldOut | None
    metrics: Metrics
    final: Path
    diagnosis: Path
    stop: asyncio.Event
    stage: Stage
    """Told where the job is."""
    narrate: Narrate
    has_deadlines: bool = True
    startup_timeout_s: float = 0.0
    leave: Callable[[int], object] = os._exit
    before: Evaluation | None = None
    keep_before: Callable[[Evaluation], None] = lambda _: None
    """Told the evaluation before the first step."""


async def distil(job: Job) -> Outcome:
    """Run the job. The student is saved at `job.final` before the last evaluation, which may still fail.

    Raises:
        StoppedError: the run was asked to stop, and the same command goes on.
        StalledError: nothing moved for too long.
    """
    fleet = job.fleet
    async with beside(*(pool.supervise() for pool in fleet.pools.values())):
        await check_teachers(job)
        before = job.before
        if before is None:  # engines start with the untrained student, also where training goes on from a checkpoint
            before = await evaluate_held_out(job, 0, Phase.BEFORE)
            if before is not None:
                async with job_watchdog(job, Phase.BEFORE, job.rules.stall_timeout_s):
                    job.keep_before(before)
        await _train(job)
        after = await evaluate_held_out(job, job.plan.max_steps, Phase.AFTER)
        if after is None and job.held_out is not None:
            await _checkpoint_the_end(job)
            raise StoppedError("stopped before the last evaluation; run the same command again for it")
        teachers = await ask_teachers(job, after)
    return Outcome(before, after, teachers)


async def _train(job: Job) -> None:
    """To the last step and the student on the disk, with as many learners as that takes and may take."""
    num_restarts = 0
    while True:
        first = num_restarts == 0
        try:
            rules = job.rules
            async with job_watchdog(job, Phase.RECOVERING, rules.stall_timeout_s + job.startup_timeout_s):
                if not first:
                    await _renew_learner(job)
                recovered = await recover(
                    job.plan,
                    job.fleet,
                    job.durability,
                    job.narrate,
                    weights_are_live=first,
                    progressed=job.accounts.progressed,
                )
            checkpointer = await _turn(job, recovered)
            async with job_watchdog(job, Phase.SAVING, rules.stall_timeout_s + job.durability.config.timeout_s):
                await _save(job, checkpointer)
            return
        except LearnerLostError as error:
            num_restarts += 1
            if num_restarts > job.rules.max_learner_restarts:
                raise
            job.stage.tell("learner", role="learner", state="restarting", reason="died", detail=str(error))
            job.metrics.count("gkd_learner_restarts_total")
            job.narrate(f"{error}; starting another learner ({num_restarts} of {job.rules.max_learner_restarts})")


async def _checkpoint_the_end(job: Job) -> None:
    """Of the last step, where no checkpoint holds it (`checkpoint.save_steps` 0): else the same command begins anew."""
    ring = job.stage.ring
    if ring is not None and ring.checkpointer is not None:
        async with job_watchdog(job, Phase.SAVING, job.rules.stall_timeout_s + job.durability.config.timeout_s):
            await ring.checkpointer.now(ring.progress)


async def _renew_learner(job: Job) -> None:
    """
    Raises:
        LearnerLostError: this one could not be started either.
    """
    try:
        await job.fleet.renew_learner()
    except (EngineError, DeadlineError, ResourceError) as error:
        raise LearnerLostError(f"no other learner could be started: {error}") from error


async def _turn(job: Job, recovered: Recovered) -> Checkpointer:
    """To the last step; its checkpointer, all of whose work is done."""
    plan, durability = job.plan, job.durability
    left = plan.max_steps - recovered.progress.step
    job.narrate(f"training for {left} steps of {plan.batch_size} sequences")
    checkpointer = Checkpointer(
        durability.store,
        job.fleet,
        durability.ledger,
        durability.config,
        job.accounts,
        durability.journal,
        last_step=recovered.checkpoint,
    )
    if recovered.checkpoint is not None:
        job.metrics.gauge("gkd_checkpoint_last_step", recovered.checkpoint)
    ring = make_ring(
        plan,
        job.fleet,
        job.accounts,
        ledger=durability.ledger,
        progress=recovered.progress,
        attempt=durability.attempt,
        rules=job.rules,
        stop=job.stop,
        checkpointer=checkpointer,
        journal=durability.journal,
        sentinel=None if job.stage.ring is None else job.stage.ring.sentinel,
        trust=durability.store.trust,
    )
    job.stage.ring = ring
    job.stage.enter("training")

    async def last_words(timeout_s: float) -> dict[str, Any]:
        if (refusal := ring.sentinel.refusal) is not None:  # nothing is kept of what came since
            return {"step": ring.progress.step, "last_good_check": refusal.last_good_step}
        await ring.step_under_way.end(timeout_s / 2)
        await checkpointer.now(ring.progress)
        return {"step": ring.progress.step, "last_checkpoint": checkpointer.last_step}

    watchdog = job_watchdog(
        job, Phase.TRAINING, job.rules.stall_timeout_s, last_words=last_words, overdue_s=checkpointer.overdue_s
    )
    try:
        async with watchdog:
            await run_ring(ring, recovered.waiting)
        await checkpointer.settle()  # a save has its own deadline
    finally:
        await ring.step_under_way.end()
        refusal = ring.sentinel.refusal
        await checkpointer.end(last_wanted=None if refusal is None else refusal.last_good_step)
        if refusal is not None:
            await withdraw(refusal, durability, job.narrate)
    return checkpointer


async def _save(job: Job, checkpointer: Checkpointer) -> None:
    """The last step's checkpoint, then the student."""
    ring = job.stage.ring
    if ring is not None and (job.durability.config.save_steps or job.stop.is_set()):
        await checkpointer.now(ring.progress)
    if job.stop.is_set():
        raise StoppedError("stopped after the last step; run the same command again to save and evaluate the student")
    job.stage.enter("saving")
    job.narrate(f"saving the student to {job.final}")
    await job.fleet.learner.save(job.final)
