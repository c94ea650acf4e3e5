"""Everything is brought to where a run goes on, with what the journal kept of the work after it."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import methodcaller

from gkd_dist.errors import EngineError, plain
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Journal
from gkd_dist.pipeline.checkpointing import LEARNER
from gkd_dist.pipeline.durability import Durability
from gkd_dist.pipeline.intake import row_of
from gkd_dist.pipeline.progress import Progress
from gkd_dist.pipeline.recovery_point import find_recovery_point, return_to
from gkd_dist.pipeline.ring import Plan
from gkd_dist.replay.groups import Group, Kind
from gkd_dist.replay.staleness import admissible
from gkd_dist.types import Kept, SampleId, ScoredTrajectory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovered:
    """State to go on from."""

    progress: Progress
    waiting: list[Group]
    """Scored groups that no step of it was trained on, in stream order."""
    checkpoint: int | None = None
    """Step of the checkpoint that it comes from; None at the beginning."""


async def recover(
    plan: Plan,
    fleet: Fleet,
    durability: Durability,
    narrate: Callable[[str], None],
    *,
    weights_are_live: bool,
    progressed: Callable[[], object] = lambda: None,
) -> Recovered:
    """Bring learner, samplers and ledger to the newest checkpoint that can be used, or to the beginning where there is
    none.

    Args:
        weights_are_live: samplers and learner hold the same weights where there is no checkpoint.
        progressed: called again and again while it goes on, on any thread.

    Raises:
        UserError: there are checkpoints, and none can be used.
        EngineError: the journal cannot be freed from what is void.
    """
    on_disk = durability.store.disk.run  # every byte of a checkpoint is read: that takes its time
    point = await on_disk(lambda: find_recovery_point(plan.run, durability.store, durability.ledger, progressed))
    progress, checkpoint = point.progress, point.checkpoint
    if checkpoint is not None:
        for discarded in checkpoint.discarded:
            narrate(f"checkpoint {discarded.path.name} cannot be used ({discarded.reason})")
        await fleet.learner.restore((checkpoint.path / LEARNER).absolute())
        progressed()
        instead = " instead" if checkpoint.discarded else ""
        narrate(f"going on after step {progress.step}{instead}, from {checkpoint.path}")
    num_dropped = await on_disk(lambda: return_to(point, durability.store, durability.ledger))
    progressed()
    if num_dropped:
        narrate(f"{num_dropped} later entries of the ledger are void; their steps are trained again")
    if checkpoint is not None or not weights_are_live:
        publication = await fleet.learner.publish()
        progressed()
        await fleet.samplers.bring_up(methodcaller("load_weights", publication))
    waiting = await _waiting(plan, progress, durability.journal, narrate, progressed)
    if durability.journal is not None:
        await _leave_only(waiting, durability.journal, progressed)
    if waiting:
        narrate(f"{sum(map(len, waiting))} scored sequences come from the journal")
    return Recovered(progress, waiting, checkpoint.step if checkpoint is not None else None)


async def _waiting(
    plan: Plan,
    progress: Progress,
    journal: Journal | None,
    narrate: Callable[[str], None],
    progressed: Callable[[], object],
) -> list[Group]:
    """Groups of the journal that the steps after `progress` can be trained on."""
    if journal is None:
        return []
    try:
        kept = await journal.read(progress.trained.union(progress.dropped), progressed)
    except Exception as error:
        narrate(f"the journal cannot be read, what it kept is sampled and scored again: {plain(error)}")
        return []
    if kept.lost:
        narrate(f"the journal lost {_lost(kept)}; what they held is sampled and scored again where it is needed")
    open_items = [item for item in kept.scored if _is_usable(plan, progress, item)]
    by_row: dict[int, list[ScoredTrajectory]] = defaultdict(list)
    for item in open_items:
        by_row[item.trajectory.sample_id.prompt_index].append(item)
    groups = [tuple(sorted(items, key=lambda item: item.trajectory.sample_id)) for items in by_row.values()]
    groups = [group for group in groups if len(group) == _group_size(plan, group)]
    groups.sort(key=lambda group: group[0].trajectory.sample_id)
    return _of_the_next_step(plan, progress, groups) if plan.whole_steps else groups


def _lost(kept: Kept) -> str:
    """How many records of which file, and why."""
    number = sum(sum(reasons.values()) for reasons in kept.lost.values())
    files = (
        f"{file}: {', '.join(f'{number} {reason}' for reason, number in sorted(reasons.items()))}"
        for file, reasons in sorted(kept.lost.items())
    )
    return f"{number} record(s) that are damaged or cut off ({'; '.join(files)})"


async def _leave_only(waiting: Sequence[Group], journal: Journal, progressed: Callable[[], object]) -> None:
    """Nothing else may stay: what weights that are gone wrote would pass for the work of later ones of their version,
    and hide a lower attempt at the same sample."""
    try:
        wanted = frozenset(item.trajectory.sample_id for group in waiting for item in group)
        await journal.keep_only(wanted, progressed)
    except Exception as error:
        logger.warning("the journal is emptied, for it could not be rewritten: %s", plain(error))
        try:
            await journal.keep_only(frozenset(), progressed)
        except Exception as again:
            raise EngineError(
                f"the journal holds sequences of steps that are void, and cannot be emptied ({plain(again)}); run the "
                "same command again, or remove the folder journal/ of the run before that"
            ) from again


def _is_usable(plan: Plan, progress: Progress, item: ScoredTrajectory) -> bool:
    """Of this run, open, complete, and written by versions that exist after the checkpoint.

    What a later version wrote is of a time line that is gone: its weights will not come again.
    """
    trajectory = item.trajectory
    return (
        trajectory.sample_id.run == plan.run
        and trajectory.sample_id not in progress.trained
        and trajectory.sample_id not in progress.dropped
        and admissible(trajectory.versions, progress.step, plan.max_staleness)
        and (item.reward is not None) == (plan.reinforcement is not None and Kind.of(item) is Kind.STUDENT)
    )


def _group_size(plan: Plan, group: Group) -> int:
    return plan.mixture.num_generations if Kind.of(group[0]) is Kind.STUDENT else 1


def _of_the_next_step(plan: Plan, progress: Progress, groups: Sequence[Group]) -> list[Group]:
    """All groups of the next step, or none: engines asked for a part of it get another batch, and round otherwise.

    Of later steps there may be pairs, which no version wrote; they are scored again with their step.
    """
    first, end = plan.mixture.first_position(progress.step), plan.mixture.first_position(progress.step + 1)
    open_rows = {
        index
        for index in range(first, end)
        if SampleId(plan.run, index) not in progress.trained and SampleId(plan.run, index) not in progress.dropped
    }
    found = [group for group in groups if row_of(group).index in open_rows]
    return found if {row_of(group).index for group in found} == open_rows else []
