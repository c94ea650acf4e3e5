"""The sampling loop: by lambda, the student writes answers to prompts or fixed pairs take their place."""

from collections.abc import Sequence
from dataclasses import replace

from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.errors import DataError, EngineError
from gkd_dist.fault_points import fault_point
from gkd_dist.interfaces import Sampler
from gkd_dist.pipeline.intake import Row, row_of
from gkd_dist.pipeline.rejection import in_part
from gkd_dist.pipeline.ring import Plan, Ring
from gkd_dist.pipeline.scoring import scored_groups
from gkd_dist.supervision.together import task_group
from gkd_dist.replay.buffer import Admission, Group, Kind
from gkd_dist.types import Prompt, Trajectory


async def sampling_loop(ring: Ring) -> None:
    """Endless: whatever the intake gives out goes round by itself until it is in the replay."""
    async with task_group() as under_way:
        while True:
            under_way.create_task(_go_round(ring, await ring.intake.next()))


async def _go_round(ring: Ring, rows: Sequence[Row]) -> None:
    """Rows that were given out together are sampled, scored and admitted together."""
    trajectories = await _sample(ring, [row for row in rows if row.kind is Kind.STUDENT])
    trajectories += [_pair(ring.plan, row) for row in rows if row.kind is Kind.FIXED]
    groups = await scored_groups(ring, trajectories)
    arrived = {group[0].trajectory.sample_id.prompt_index for group in groups}
    for row in rows:
        if row.index not in arrived:
            drop(ring, row)
    ring.keep(groups)
    for group in groups:
        await admit(ring, group)
    ring.intake.arrived(rows)


async def admit(ring: Ring, group: Group) -> None:
    """Into the replay; what is too old by now is issued again.

    Raises:
        EngineError: the replay refused it for a reason that cannot be.
    """
    fault_point("replay.admit")
    verdict = await ring.replay.admit(group, ring.intake.version)
    ring.accounts.queued(ring.replay.depth)
    if verdict is Admission.TOO_STALE:
        ring.intake.issue_again(row_of(group))
    elif verdict is Admission.FROM_FUTURE:
        raise EngineError(f"the replay refused {group[0].trajectory.sample_id}: {verdict.value}")


def drop(ring: Ring, row: Row) -> None:
    """Nobody could sample or score this row: another one takes its place.

    Raises:
        EngineError: more were dropped than supervision.max_dropped.
    """
    ids = [ring.plan.stream.prompt(row.index, repeat).sample_id for repeat in ring.repeats(row.kind)]
    ring.progress.dropped.update(ids)
    ring.ledger.drop(ids)
    ring.accounts.dropped(len(ids), "rejected")
    if len(ring.progress.dropped) > ring.plan.max_dropped:
        raise EngineError(
            f"{len(ring.progress.dropped)} sequences could not be sampled or scored, more than "
            f"supervision.max_dropped ({ring.plan.max_dropped}); see the log for the reasons"
        )
    ring.intake.drop(row)


async def _sample(ring: Ring, rows: Sequence[Row]) -> list[Trajectory]:
    """What the student writes to the prompts of `rows`, those left out that no sampler can answer."""
    if not rows:
        return []
    repeats = ring.repeats(Kind.STUDENT)
    prompts = [ring.plan.stream.prompt(row.index, repeat) for row in rows for repeat in repeats]
    attempts = {row.index: row.attempt for row in rows}
    trials: dict[int, int] = {}

    async def sample(sampler: Sampler, share: Sequence[Prompt]) -> list[Trajectory]:
        numbers = []
        for prompt in share:
            index = prompt.sample_id.prompt_index
            trial = trials.setdefault(index, 0)
            numbers.append(attempts[index] + trial // len(repeats))
            trials[index] += 1
        answers = await sampler.sample(share, ring.plan.sampling)
        return [replace(answer, attempt=number) for answer, number in zip(answers, numbers, strict=True)]

    with ring.accounts.timed("sample"):
        answers = await in_part(prompts, lambda part: ring.fleet.samplers.spread(part, sample))
    whole = _whole(answers, len(repeats))
    ring.accounts.sampled(whole)
    return whole


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
    pair = fixed_trajectory(prompt.sample_id, prompt.token_ids, completion_ids, plan.sampling.max_new_tokens)
    return replace(pair, attempt=row.attempt)
