"""The ring as three asyncio loops over Protocols; no Ray, no torch.

    intake -> SAMPLING (rows: sampled -> scored) -> replay -> LEARNING -> reports, weights -> PUBLISHING -> intake

sampling    consumes rows, prompts and fixed pairs by lambda; produces scored (and judged) trajectories in the replay;
            every row, or in synchronous runs every step, goes round as a work of its own
            waits for: the intake (a place that a live version made free)        unblocked by: publishing
            and for: room in the replay                                          unblocked by: learning
learning    consumes a batch drawn from the replay; produces step reports, weights and checkpoints
            waits for: a full batch; room for one report                         unblocked by: sampling; publishing
publishing  consumes reports and weights; produces live weights on every sampler that serves
            waits for: a report                                                  unblocked by: learning

With max_staleness 0 and whole steps the loops take turns and the run is Algorithm 1 of the paper exactly (arXiv
2306.13649). The first failure of any loop cancels the others and ends the run with its own error and cause.
"""

import asyncio
from collections.abc import Callable, Sequence

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Journal
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.checkpointing import Checkpointer
from gkd_dist.pipeline.intake import Intake, row_of
from gkd_dist.pipeline.keeping import Keeper
from gkd_dist.pipeline.learning import learning_loop
from gkd_dist.pipeline.progress import Progress
from gkd_dist.pipeline.publishing import publishing_loop
from gkd_dist.pipeline.ring import Plan, Ring
from gkd_dist.pipeline.sampling import admit, sampling_loop
from gkd_dist.pipeline.sentinel import Sentinel
from gkd_dist.pipeline.time_spent import Roles
from gkd_dist.replay.buffer import ReplayBuffer
from gkd_dist.replay.groups import Group, Kind
from gkd_dist.replay.ledger import Ledger
from gkd_dist.supervision.budgets import Budgets
from gkd_dist.supervision.together import beside, gather_all
from gkd_dist.types import SampleId


def make_ring(
    plan: Plan,
    fleet: Fleet,
    accounts: StepAccounts,
    *,
    ledger: Ledger,
    progress: Progress | None = None,
    attempt: int = 0,
    rules: SupervisionConfig | None = None,
    stop: asyncio.Event | None = None,
    checkpointer: Checkpointer | None = None,
    journal: Journal | None = None,
    sentinel: Sentinel | None = None,
    trust: Callable[[int], object] = lambda _: None,
) -> Ring:
    """A ring that goes on after `progress` (None: from the beginning), whose weights are live on every sampler.

    Args:
        sentinel: of the ring before it, over the same teachers.
        trust: as `Sentinel`.
    """
    progress = progress or Progress(plan.run)

    def is_taken(index: int) -> bool:
        sample_id = SampleId(plan.run, index)
        return sample_id in progress.trained or sample_id in progress.dropped

    def evict(group: Group) -> None:
        accounts.evicted(len(group))
        intake.issue_again(row_of(group))

    intake = Intake(
        plan.mixture,
        batch_size=plan.batch_size,
        max_steps=plan.max_steps,
        max_staleness=plan.max_staleness,
        step=progress.step,
        is_taken=is_taken,
        whole_steps=plan.whole_steps,
    )
    replay = ReplayBuffer(
        plan.replay_capacity,
        plan.max_staleness,
        batch_size=plan.batch_size,
        max_uses=plan.max_uses,
        on_evict=evict,
        drawn=progress.trained.union(progress.dropped),
    )
    rules = rules or SupervisionConfig()
    num_dropped = sum(end - start for start, end in progress.dropped.ranges().get(0, []))
    return Ring(
        plan=plan,
        fleet=fleet,
        accounts=accounts,
        progress=progress,
        ledger=ledger,
        attempt=attempt,
        budgets=Budgets.of(rules, num_dropped),
        max_losses=rules.infra_attempts,
        intake=intake,
        replay=replay,
        keeper=Keeper(journal, accounts),
        sentinel=Sentinel(fleet, plan.sentinel_steps, accounts, progress.step, former=sentinel, trust=trust),
        stop=stop or asyncio.Event(),
        published=asyncio.Queue(maxsize=1),
        checkpointer=checkpointer,
        baseline=plan.reinforcement.make_baseline(progress.baseline) if plan.reinforcement else None,
    )


async def run_ring(ring: Ring, waiting: Sequence[Group] = ()) -> None:
    """Train until the plan's last step; returns when its weights are live on every sampler (where they are evaluated)
    and the sentinel has checked who scored since its last check.

    Args:
        waiting: scored groups of a former start that were not trained on.

    Raises:
        GkdError: what the first failing loop raised; the others are cancelled before.
        StoppedError: the run was asked to stop.
        TeacherChangedError: a teacher no longer answers as it did.
    """
    roles: Roles = {"sampler": [ring.fleet.samplers], "teacher": [*ring.fleet.teachers.values()]}
    capacity = len(Kind) * ring.plan.replay_capacity  # of both kinds, as the depth is
    ring.accounts.begin(capacity, ring.progress.step, roles)
    for group in waiting:
        ring.intake.adopt(row_of(group))
    try:
        async with beside(sampling_loop(ring), _admit_all(ring, waiting)):
            await gather_all(loop(ring) for loop in (learning_loop, publishing_loop))
    finally:
        await ring.keeper.end()
    await ring.sentinel.at_end(ring.plan.max_steps)


async def _admit_all(ring: Ring, groups: Sequence[Group]) -> None:
    await gather_all(admit(ring, group) for group in groups)
