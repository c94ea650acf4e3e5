"""The sampling loop: by lambda, the student writes answers to prompts or fixed pairs take their place."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.errors import DataError, DeadlineError, EngineError, RejectedError, RoleLostError, WeightsError
from gkd_dist.fault_points import fault_point
from gkd_dist.interfaces import Sampler
from gkd_dist.pipeline.intake import Row, row_of
from gkd_dist.pipeline.rejection import in_part
from gkd_dist.pipeline.ring import Plan, Ring
from gkd_dist.pipeline.routing import ask
from gkd_dist.pipeline.scoring import scored_groups
from gkd_dist.replay.groups import Admission, Group, Kind
from gkd_dist.replay.ledger import DroppedPrompt
from gkd_dist.supervision.together import task_group
from gkd_dist.types import Prompt, Trajectory

logger = logging.getLogger(__name__)


async def sampling_loop(ring: Ring) -> None:
    """Endless: whatever the intake gives out goes round by itself until it is in the replay."""
    async with task_group() as under_way:
        while True:
            with ring.accounts.timed("blocked"):
                rows = await ring.intake.next()
            under_way.create_task(_go_round(ring, rows))


async def _go_round(ring: Ring, rows: Sequence[Row]) -> None:
    """Rows that were given out together are sampled, scored and admitted together.

    Raises:
        RoleLostError: at once.
        Exception: what the last of too many lost requests raised, or of too many dropped rows.
    """
    try:
        groups = await _scored(ring, rows)
    except RoleLostError:  # its pool has waited: asking for each row again would wait as long each time
        raise
    except (EngineError, DeadlineError, WeightsError) as error:
        if ring.plan.whole_steps:
            raise
        ring.budgets.spend(error)
        ring.intake.arrived(rows)
        for row in rows:
            _lost(ring, row, error)
        return
    ring.budgets.succeeded()
    for row in rows:
        ring.losses.pop(row.index, None)
    ring.keeper.keep(groups)
    for group in groups:
        await admit(ring, group)
    ring.intake.arrived(rows)


def _lost(ring: Ring, row: Row, error: Exception) -> None:
    """It goes in again; one that is lost whoever is asked is to blame itself, and dropped.

    Raises:
        RejectedError: too many rows were dropped.
    """
    ring.losses[row.index] += 1
    if ring.losses[row.index] < ring.max_losses:
        ring.intake.issue_again(row)
        return
    logger.warning("row %d of the data was lost %d times: %s", row.index, ring.losses.pop(row.index), error)
    ring.budgets.spend(RejectedError(f"row {row.index} of the data is lost whoever is asked: {error}"))
    drop(ring, row, "lost")


async def _scored(ring: Ring, rows: Sequence[Row]) -> list[Group]:
    """The groups of all rows that can be sampled and scored; the others are dropped."""
    trajectories = await _sample(ring, [row for row in rows if row.kind is Kind.STUDENT])
    trajectories += [_pair(ring.plan, row) for row in rows if row.kind is Kind.FIXED]
    groups = await scored_groups(ring, trajectories)
    arrived = {group[0].trajectory.sample_id.prompt_index for group in groups}
    for row in rows:
        if row.index not in arrived:
            ring.budgets.spend(RejectedError(f"row {row.index} of the data was rejected by all; see the log"))
            drop(ring, row, "rejected")
    return groups


async def admit(ring: Ring, group: Group) -> None:
    """Into the replay; what is too old by now is issued again.

    Raises:
        EngineError: the replay refused it for a reason that cannot be.
    """
    fault_point("replay.admit")
    # The learner's own version: samplers may have its newest weights before they count as live everywhere.
    verdict = await ring.replay.admit(group, ring.progress.step)
    ring.accounts.queued(ring.replay.depth)
    if verdict is Admission.ADMITTED:
        ring.accounts.admitted(group)
    elif verdict is Admission.TOO_STALE:
        ring.accounts.evicted(len(group))
        ring.intake.issue_again(row_of(group))
    elif verdict is Admission.FROM_FUTURE:
        raise EngineError(f"the replay refused {group[0].trajectory.sample_id}: {verdict.value}")


def drop(ring: Ring, row: Row, reason: str) -> None:
    """Nobody could sample or score this row: another one takes its place.

    Args:
        reason: for ledger and metrics: `rejected` by all, or `lost` as often as supervision.infra_attempts says.
    """
    for repeat in ring.repeats(row.kind):
        sample_id = ring.plan.stream.prompt(row.index, repeat).sample_id
        # First of all: no checkpoint may hold what the ledger does not know.
        ring.ledger.append(DroppedPrompt(ring.progress.step, sample_id, reason))
        ring.progress.dropped.add(sample_id)
        ring.accounts.dropped(1, reason)
    ring.intake.drop(row)


async def _sample(ring: Ring, rows: Sequence[Row]) -> list[Trajectory]:
    """What the student writes to the prompts of `rows`, those left out that no sampler can answer."""
    if not rows:
        return []
    repeats = ring.repeats(Kind.STUDENT)
    prompts = [ring.plan.stream.prompt(row.index, repeat) for row in rows for repeat in repeats]
    attempts = {row.index: row.attempt for row in rows}
    trials: dict[int, int] = {}
    whole_steps = ring.plan.whole_steps

    async def sample(sampler: Sampler, share: Sequence[Prompt]) -> list[Trajectory]:
        numbers = []
        for prompt in share:
            index = prompt.sample_id.prompt_index
            trial = trials.setdefault(index, 0)
            numbers.append(attempts[index] + trial // len(repeats))
            trials[index] += 1
        live = ring.intake.version
        with ring.accounts.asked("sample", sampler):
            answers = await sampler.sample(share, ring.plan.sampling)
        for answer in answers:
            _check_versions(answer, live, ring.progress.step)
        return [replace(answer, attempt=number) for answer, number in zip(answers, numbers, strict=True)]

    with ring.accounts.timed("sample"):
        answers = await in_part(prompts, lambda part: ask(ring.fleet.samplers, part, sample, whole_steps=whole_steps))
    whole = _whole(answers, len(repeats))
    ring.accounts.sampled(whole)
    return whole


def _check_versions(answer: Trajectory, live: int, newest: int) -> None:
    """Every replica has the live version before it is asked: another one would be thrown away, and asked for anew for
    ever by whom the replay refuses it.

    Raises:
        WeightsError: it was written with weights that its sampler should not have.
    """
    versions = answer.versions
    if versions is not None and not live <= versions.oldest <= versions.newest <= newest:
        raise WeightsError(
            f"{answer.sample_id} was written by versions {versions.oldest} to {versions.newest}, but version {live} "
            f"was live on every sampler, and {newest} is the newest"
        )


def _whole(answers: Sequence[Trajectory | None], num_repeats: int) -> list[Trajectory]:
    """The samples of a prompt, if they are all there."""
    prompts = [answers[start : start + num_repeats] for start in range(0, len(answers), num_repeats)]
    return [answer for prompt in prompts if None not in prompt for answer in prompt if answer is not None]


def _pair(plan: Plan, row: Row) -> Trajectory:
    """The fixed pair of a row."""
    prompt = plan.stream.prompt(row.index)
    completion_ids = plan.stream.row(row.index).completion_ids
    if completion_ids is None:
        raise DataError("the mixture asks for a fixed pair, but the data has no completions")
    pair = fixed_trajectory(
        prompt.sample_id, prompt.token_ids, completion_ids, plan.sampling.max_new_tokens, plan.fixed_source
    )
    return replace(pair, attempt=row.attempt)
