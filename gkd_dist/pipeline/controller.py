"""The ring as four asyncio loops over Protocols; no Ray, no torch.

    prompts -> SAMPLING -> trajectories -> SCORING -> replay -> LEARNING -> reports -> PUBLISHING -> gate -> SAMPLING

sampling    consumes prompts and fixed pairs by lambda; produces trajectories
            waits for: the gate (weights of version step - max_staleness live)   unblocked by: publishing
scoring     consumes trajectories; produces scored (and, with a reward, judged) trajectories in the replay
            waits for: the trajectory queue; room in the replay                  unblocked by: sampling; learning
learning    consumes a batch drawn from the replay; produces step reports
            waits for: a full batch; room for one report                         unblocked by: scoring; publishing
publishing  consumes step reports; produces live weights on every sampler
            waits for: a report                                                  unblocked by: learning

With max_staleness 0 the loops take turns and the run is Algorithm 1 of the paper exactly (arXiv 2306.13649). The
first failure of any loop cancels the others and ends the run with its own error and cause.
"""

import asyncio

from gkd_dist.interfaces import Fleet
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.gate import VersionGate
from gkd_dist.pipeline.learning import learning_loop
from gkd_dist.pipeline.publishing import publishing_loop
from gkd_dist.pipeline.ring import Plan, Ring
from gkd_dist.pipeline.sampling import sampling_loop
from gkd_dist.pipeline.scoring import scoring_loop
from gkd_dist.pipeline.sentinel import Sentinel
from gkd_dist.replay.buffer import Kind, ReplayBuffer
from gkd_dist.supervision.together import gather_all


async def run_ring(plan: Plan, fleet: Fleet, accounts: StepAccounts) -> None:
    """Train for `plan.max_steps` steps; returns when the last weights are live on every sampler and the sentinel has
    checked who scored since its last check.

    Raises:
        GkdError: what the first failing loop raised; the others are cancelled before.
        EngineError: a teacher no longer answers as it did.
    """
    ring = Ring(
        plan=plan,
        fleet=fleet,
        accounts=accounts,
        gate=VersionGate(),
        replay=ReplayBuffer(plan.replay_capacity, plan.max_staleness, batch_size=plan.batch_size),
        sentinel=Sentinel(fleet, plan.sentinel_steps, accounts),
        trajectories=asyncio.Queue(maxsize=1),
        reports=asyncio.Queue(maxsize=1),
        baseline=plan.reinforcement.make_baseline() if plan.reinforcement else None,
    )
    accounts.begin(len(Kind) * plan.replay_capacity)  # of both kinds, as the depth is
    await gather_all(loop(ring) for loop in (sampling_loop, scoring_loop, learning_loop, publishing_loop))
    await ring.sentinel.at_end(plan.max_steps)
