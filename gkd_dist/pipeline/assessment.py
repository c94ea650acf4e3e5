"""What is asked around the training: do the teachers answer rightly, and how far are student and teachers apart?"""

import math
from typing import TYPE_CHECKING

from gkd_dist.interfaces import Metrics
from gkd_dist.pipeline.evaluation import Evaluation, evaluate
from gkd_dist.pipeline.job_watchdog import job_watchdog
from gkd_dist.pipeline.phases import Phase
from gkd_dist.pipeline.sentinel import check_at_start
from gkd_dist.pipeline.teacher_answers import TeacherAnswers, teacher_answers
from gkd_dist.supervision.together import unless_stopped

if TYPE_CHECKING:
    from gkd_dist.pipeline.job import Job


async def check_teachers(job: "Job") -> None:
    if not job.fleet.teachers:
        return
    async with job_watchdog(job, Phase.CHECKING, job.rules.stall_timeout_s):
        checks = await check_at_start(
            job.fleet, lambda found: job.accounts.checked(None, found), job.accounts.progressed
        )
    for check in {str(check): check for check in checks.values()}.values():
        job.narrate(f"teacher checked: {check}")


async def ask_teachers(job: "Job", after: Evaluation | None) -> TeacherAnswers:
    if job.held_out is None or after is None or not (job.fleet.teachers and job.held_out.max_teacher_tokens):
        return {}
    job.narrate(f"asking the teachers for their own answers to {len(after.shown)} prompts")
    async with job_watchdog(job, Phase.ASKING, _patience_s(job)):
        return await unless_stopped(job.stop, teacher_answers(job.fleet, job.held_out, after.shown)) or {}


async def evaluate_held_out(job: "Job", version: int, phase: Phase) -> Evaluation | None:
    if job.held_out is None:
        return None
    when = "before" if phase is Phase.BEFORE else "after"
    job.stage.enter("evaluating")
    job.narrate(f"evaluating on {len(job.held_out.prompts)} held-out prompts ({when} training)")
    async with job_watchdog(job, phase, _patience_s(job)):
        evaluation = await unless_stopped(job.stop, evaluate(job.fleet, job.held_out, version, job.accounts.progressed))
    if evaluation is None:
        return None
    if evaluation.left_out:
        job.narrate(f"left out of the evaluation: {evaluation.left_out}; the log says why")
    _show(evaluation, job.metrics, when)
    return evaluation


def _show(evaluation: Evaluation, metrics: Metrics, when: str) -> None:
    for text, report in (("on_policy", evaluation.on_policy), ("reference", evaluation.reference)):
        if report is not None:
            for kind in ("forward_kl", "reverse_kl", "objective"):
                nats = getattr(report, kind)
                if not math.isnan(nats):  # some targets cannot tell it
                    metrics.gauge("gkd_held_out_divergence_nats", nats, text=text, kind=kind, when=when)
    if evaluation.reward_mean is not None:
        metrics.gauge("gkd_held_out_reward_mean", evaluation.reward_mean, when=when)


def _patience_s(job: "Job") -> float:
    """What an evaluation may take without progress. A request may hold all of it, and where that has no deadline of its
    own it may take as much longer than a train step as it asks for more tokens."""
    plan, held_out = job.plan, job.held_out
    if job.has_deadlines or held_out is None:
        return job.rules.stall_timeout_s
    asked = len(held_out.prompts) * held_out.sampling.max_new_tokens
    return job.rules.stall_timeout_s * max(1.0, asked / (plan.batch_size * plan.sampling.max_new_tokens))
