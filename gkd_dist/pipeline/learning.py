"""The learning loop: draw a batch by lambda, train on it."""

from gkd_dist.pipeline.ring import Ring
from gkd_dist.types import FloatArray, ScoredTrajectory, TrainBatch


async def learning_loop(ring: Ring) -> None:
    """One optimizer step per batch; reports go to the publishing loop."""
    plan = ring.plan
    for step in range(plan.max_steps):
        num_student = plan.mixture.num_student(step)
        drawn = await ring.replay.draw(num_student, plan.batch_size - num_student, step)
        advantages = None
        if ring.baseline is not None:
            advantages = ring.baseline.advantages(drawn)
            ring.accounts.rewarded(step, drawn, advantages)
        with ring.accounts.timed(step, "learn"):
            report = await ring.fleet.learner.train(train_batch(step, drawn, advantages))
        ring.accounts.trained(report, drawn, ring.replay.depth)
        if plan.save_steps and report.policy_version % plan.save_steps == 0:
            await ring.fleet.learner.save(plan.checkpoints / f"step-{report.policy_version}")
        await ring.reports.put(report)


def train_batch(step: int, scored: list[ScoredTrajectory], advantages: FloatArray | None = None) -> TrainBatch:
    """A batch with its global denominators."""
    return TrainBatch(
        step=step,
        scored=tuple(scored),
        num_sequences=len(scored),
        num_tokens=sum(item.trajectory.num_completion_tokens for item in scored),
        advantages=advantages,
    )
