"""One distillation job from end to end: check, evaluate, train, save, evaluate; and go on after a failure or a stop."""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import DeadlineError, EngineError, LearnerLostError, ResourceError, StoppedError, UserError
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Metrics
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.checkpointing import Checkpointer
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.diagnosis import diagnose
from gkd_dist.pipeline.durability import Durability
from gkd_dist.pipeline.evaluation import Evaluation, HeldOut, evaluate
from gkd_dist.pipeline.phases import Phase, Pulse
from gkd_dist.pipeline.recovery import Recovered, recover
from gkd_dist.pipeline.ring import Plan
from gkd_dist.pipeline.sentinel import check_at_start
from gkd_dist.pipeline.stage import Stage
from gkd_dist.pipeline.teacher_answers import TeacherAnswers, teacher_answers
from gkd_dist.pipeline.watchdog import Watchdog
from gkd_dist.supervision.together import beside, unless_stopped

Narrate = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """Evaluations around the training; None where evaluation is off."""

    before: Evaluation | None
    after: Evaluation | None
    teachers: TeacherAnswers = field(default_factory=dict)
    """To the prompts that are shown."""


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
        await _check_teachers(job)
        before = job.before
        if before is None:  # engines start with the untrained student, also where training goes on from a checkpoint
            before = await _evaluate(job, 0, Phase.BEFORE)
            if before is not None:
                job.keep_before(before)
        await _train(job)
        after = await _evaluate(job, job.plan.max_steps, Phase.AFTER)
        teachers = await _ask_teachers(job, after)
        if job.stop.is_set():
            await _checkpoint_the_end(job)
            raise StoppedError("stopped before the last evaluation; run the same command again for it")
    return Outcome(before, after, teachers)


def _watchdog(
    job: Job, phase: Phase, timeout_s: float, *, last_words: Callable[[], Awaitable[Mapping[str, Any]]] | None = None
) -> Watchdog:
    """
    Args:
        timeout_s: without progress; one answered request is progress.
        last_words: as `Watchdog`.
    """
    return Watchdog(
        phase,
        Pulse(job.fleet, job.accounts.idle_s).idle_s,
        timeout_s,
        job.diagnosis,
        lambda: diagnose(job.fleet, job.stage.ring),
        last_words=last_words,
        # A failed step leaves a diagnosis whatever it is; before and after, what the user can mend says enough.
        spare=(LearnerLostError, StoppedError, *([] if phase is Phase.TRAINING else [UserError])),
        exit=job.leave,
    )


def _patience_s(job: Job) -> float:
    """What an evaluation may take without progress. A request may hold all of it, and where that has no deadline of its
    own it may take as much longer than a train step as it asks for more tokens."""
    plan, held_out = job.plan, job.held_out
    if job.has_deadlines or held_out is None:
        return job.rules.stall_timeout_s
    asked = len(held_out.prompts) * held_out.sampling.max_new_tokens
    return job.rules.stall_timeout_s * max(1.0, asked / (plan.batch_size * plan.sampling.max_new_tokens))


async def _train(job: Job) -> None:
    """To the last step and the student on the disk, with as many learners as that takes and may take."""
    num_restarts = 0
    while True:
        first = num_restarts == 0
        try:
            rules = job.rules
            async with _watchdog(job, Phase.RECOVERING, rules.stall_timeout_s + job.startup_timeout_s):
                if not first:
                    await _renew_learner(job)
                recovered = await recover(job.plan, job.fleet, job.durability, job.narrate, weights_are_live=first)
            checkpointer = await _turn(job, recovered)
            async with _watchdog(job, Phase.SAVING, rules.stall_timeout_s + job.durability.config.timeout_s):
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
    )
    job.stage.ring = ring
    job.stage.enter("training")

    async def last_words() -> dict[str, Any]:
        await checkpointer.now(ring.progress)
        return {"last_checkpoint": checkpointer.last_step}

    watchdog = _watchdog(job, Phase.TRAINING, job.rules.stall_timeout_s, last_words=last_words)
    try:
        async with watchdog:
            await run_ring(ring, recovered.waiting)
        await checkpointer.settle()  # a save has its own deadline
    finally:
        await checkpointer.end()
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


async def _check_teachers(job: Job) -> None:
    if not job.fleet.teachers:
        return
    async with _watchdog(job, Phase.CHECKING, job.rules.stall_timeout_s):
        checks = await check_at_start(
            job.fleet, lambda found: job.accounts.checked(None, found), job.accounts.progressed
        )
    for check in {str(check): check for check in checks.values()}.values():
        job.narrate(f"teacher checked: {check}")


async def _ask_teachers(job: Job, after: Evaluation | None) -> TeacherAnswers:
    if job.held_out is None or after is None or not (job.fleet.teachers and job.held_out.max_teacher_tokens):
        return {}
    job.narrate(f"asking the teachers for their own answers to {len(after.shown)} prompts")
    async with _watchdog(job, Phase.ASKING, _patience_s(job)):
        return await unless_stopped(job.stop, teacher_answers(job.fleet, job.held_out, after.shown)) or {}


async def _evaluate(job: Job, version: int, phase: Phase) -> Evaluation | None:
    if job.held_out is None:
        return None
    when = "before" if phase is Phase.BEFORE else "after"
    job.stage.enter("evaluating")
    job.narrate(f"evaluating on {len(job.held_out.prompts)} held-out prompts ({when} training)")
    async with _watchdog(job, phase, _patience_s(job)):
        evaluation = await unless_stopped(job.stop, evaluate(job.fleet, job.held_out, version, job.accounts.progressed))
    if evaluation is None:
        return None
    if evaluation.left_out:
        job.narrate(f"left out of the evaluation: {evaluation.left_out}; the log says why")
    metrics = job.metrics
    for text, report in (("on_policy", evaluation.on_policy), ("reference", evaluation.reference)):
        if report is not None:
            for kind in ("forward_kl", "reverse_kl", "objective"):
                nats = getattr(report, kind)
                if not math.isnan(nats):  # some targets cannot tell it
                    metrics.gauge("gkd_held_out_divergence_nats", nats, text=text, kind=kind, when=when)
    if evaluation.reward_mean is not None:
        metrics.gauge("gkd_held_out_reward_mean", evaluation.reward_mean, when=when)
    return evaluation
