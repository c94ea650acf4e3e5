"""The learning loop: draw a batch by lambda, train on it, hand on the weights."""

from collections.abc import Sequence

from gkd_dist.errors import EngineError, LostTargetsError, StoppedError, plain
from gkd_dist.fault_points import fault_point
from gkd_dist.pipeline.ring import Ring
from gkd_dist.pipeline.scoring import score
from gkd_dist.replay.groups import Drawn, Kind
from gkd_dist.replay.ledger import StepEntry, TrainedSequence
from gkd_dist.replay.staleness import staleness
from gkd_dist.supervision.together import unless_stopped
from gkd_dist.types import FloatArray, ScoredTrajectory, StepReport, TrainBatch

SCORE_AGAIN = 3
"""Times that a batch is scored again when its targets are gone."""


async def learning_loop(ring: Ring) -> None:
    """One optimizer step per batch until the last one; reports and weights go to the publishing loop.

    Raises:
        StoppedError: the run was asked to stop; a checkpoint holds the last step.
    """
    plan, progress = ring.plan, ring.progress
    while progress.step < plan.max_steps:
        step = progress.step
        num_student = plan.mixture.num_student(step)
        with ring.accounts.timed("wait"):
            drawn = await unless_stopped(ring.stop, ring.replay.draw(num_student, plan.batch_size - num_student, step))
        if drawn is None:
            await _stop(ring)
        ring.accounts.drawn([each.scored for each in drawn or []], ring.replay.depth)
        await ring.sentinel.before_step(step)
        report = await ring.step_under_way.see_through(_train_and_commit(ring, drawn or []))
        fault_point("controller.after_step")
        publication = None
        if plan.asks_for(report.policy_version):
            with ring.accounts.timed("publish"), ring.accounts.timed("pack"):
                publication = await ring.fleet.learner.publish()
        if plan.save_steps and report.policy_version % plan.save_steps == 0:
            with ring.accounts.timed("save"):
                await ring.fleet.learner.save(plan.students / f"step-{report.policy_version}")
        if ring.checkpointer is not None:
            await ring.checkpointer.after_step(progress)
        await ring.published.put((report, publication))
        if ring.stop.is_set() and progress.step < plan.max_steps:
            await _stop(ring)


async def _train_and_commit(ring: Ring, drawn: Sequence[Drawn]) -> StepReport:
    report = await _train(ring, drawn)
    _commit(ring, report, drawn)
    return report


async def _train(ring: Ring, drawn: Sequence[Drawn]) -> StepReport:
    step, scored = ring.progress.step, [each.scored for each in drawn]
    advantages = None
    if ring.baseline is not None:
        advantages = ring.baseline.advantages(scored)
        ring.accounts.rewarded(step, scored, advantages)
    for _ in range(SCORE_AGAIN):
        try:
            with ring.accounts.timed("learn"):
                return await ring.fleet.learner.train(train_batch(step, scored, advantages))
        except LostTargetsError:
            again = await score(ring.fleet, [item.trajectory for item in scored], ring.plan.teachers_of)
            scored = [
                ScoredTrajectory(new.trajectory, new.scores, old.reward) for new, old in zip(again, scored, strict=True)
            ]
    raise LostTargetsError(f"the teacher targets of step {step} were lost {SCORE_AGAIN} times in a row")


def _commit(ring: Ring, report: StepReport, drawn: Sequence[Drawn]) -> None:
    """The step has happened: from here on its ids are trained, and the intake may give out what they made room for.

    Raises:
        EngineError: the ledger cannot be written.
    """
    entry = StepEntry(
        step=report.step,
        attempt=ring.attempt,
        student_fraction=ring.plan.mixture.student_fraction(report.step),
        num_student=ring.plan.mixture.num_student(report.step),
        sequences=tuple(_entry(each, report.step) for each in drawn),
    )
    try:
        ring.ledger.append(entry)
    except OSError as error:  # first of all: no checkpoint may hold a step that the ledger does not know
        raise EngineError(
            f"the ledger {ring.ledger.path} cannot be written ({plain(error)}); "
            "where its disk is full: make room there, and run the same command again"
        ) from error
    fresh = [each.scored.trajectory for each in drawn if each.use == 1]
    kinds = [Kind.of(each.scored) for each in drawn if each.use == 1]
    ring.progress.trained.update(trajectory.sample_id for trajectory in fresh)
    if ring.baseline is not None:
        ring.progress.baseline = ring.baseline.state
    ring.progress.num_trained_tokens += report.num_trained_tokens
    ring.progress.step = report.policy_version
    num_prompts = kinds.count(Kind.STUDENT) // ring.plan.mixture.num_generations
    ring.intake.trained(report.policy_version, num_prompts, kinds.count(Kind.FIXED))
    ring.accounts.trained(report, [each.scored for each in drawn], ring.replay.depth)


def _entry(drawn: Drawn, step: int) -> TrainedSequence:
    trajectory = drawn.scored.trajectory
    return TrainedSequence(
        sample_id=trajectory.sample_id,
        attempt=trajectory.attempt,
        source=trajectory.source,
        versions=trajectory.versions,
        teachers=tuple(score.teacher for score in drawn.scored.scores),
        use=drawn.use,
        staleness=staleness(trajectory.versions, step),
    )


async def _stop(ring: Ring) -> None:
    step = ring.progress.step
    if ring.checkpointer is None:
        raise StoppedError(f"stopped after {step} steps; nothing is kept of them")
    await ring.checkpointer.now(ring.progress)
    raise StoppedError(
        f"stopped after {step} of {ring.plan.max_steps} steps, with a checkpoint of the last; run the same command "
        "again to go on"
    )


def train_batch(step: int, scored: list[ScoredTrajectory], advantages: FloatArray | None = None) -> TrainBatch:
    """A batch with its global denominators."""
    return TrainBatch(
        step=step,
        scored=tuple(scored),
        num_sequences=len(scored),
        num_tokens=sum(item.trajectory.num_completion_tokens for item in scored),
        advantages=advantages,
    )
