"""One distillation job from end to end: evaluate, train, save, evaluate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gkd_dist.interfaces import Fleet, Metrics
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import run_ring
from gkd_dist.pipeline.evaluation import Evaluation, HeldOut, evaluate
from gkd_dist.pipeline.ring import Plan
from gkd_dist.pipeline.sentinel import check_at_start

Narrate = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """Evaluations around the training; None where evaluation is off."""

    before: Evaluation | None
    after: Evaluation | None


async def distil(
    plan: Plan,
    fleet: Fleet,
    accounts: StepAccounts,
    *,
    held_out: HeldOut | None,
    metrics: Metrics,
    final: Path,
    narrate: Narrate,
) -> Outcome:
    """Run the job. The student is saved at `final` before the last evaluation, which may still fail.

    Args:
        held_out: None skips both evaluations.
        narrate: told in one line what happens next.
    """
    await _check_teachers(fleet, accounts, narrate)
    before = await _evaluate(fleet, held_out, 0, "before", metrics, narrate)
    narrate(f"training for {plan.max_steps} steps of {plan.batch_size} sequences")
    await run_ring(plan, fleet, accounts)
    narrate(f"saving the student to {final}")
    await fleet.learner.save(final)
    after = await _evaluate(fleet, held_out, plan.max_steps, "after", metrics, narrate)
    return Outcome(before, after)


async def _check_teachers(fleet: Fleet, accounts: StepAccounts, narrate: Narrate) -> None:
    checks = await check_at_start(fleet)
    accounts.checked(-1, checks)
    for check in {str(check): check for check in checks}.values():
        narrate(f"teacher checked: {check}")


async def _evaluate(
    fleet: Fleet, held_out: HeldOut | None, version: int, when: str, metrics: Metrics, narrate: Narrate
) -> Evaluation | None:
    if held_out is None:
        return None
    narrate(f"evaluating on {len(held_out.prompts)} held-out prompts ({when} training)")
    evaluation = await evaluate(fleet, held_out, version)
    for text, report in (("on_policy", evaluation.on_policy), ("reference", evaluation.reference)):
        if report is not None:
            for kind in ("forward_kl", "reverse_kl", "objective"):
                nats = getattr(report, kind)
                if not math.isnan(nats):  # some targets cannot tell it
                    metrics.gauge("gkd_held_out_divergence_nats", nats, text=text, kind=kind, when=when)
    if evaluation.reward_mean is not None:
        metrics.gauge("gkd_held_out_reward_mean", evaluation.reward_mean, when=when)
    return evaluation
