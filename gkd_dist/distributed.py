"""The same ring with every part in a Ray actor of its own; a reward that is no model stays beside the controller."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from gkd_dist.build import Blueprint
from gkd_dist.closing import Closing
from gkd_dist.cluster.journal import lasting_journal
from gkd_dist.cluster.placement import FleetPlan, RolePlan, start_fleet
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Journal, Metrics
from gkd_dist.supervision.pool import Pool


@asynccontextmanager
async def ray_fleet(
    blueprint: Blueprint,
    metrics: Metrics | None = None,
    say: Callable[[str], None] = lambda _: None,
    when_connected: Callable[[], None] = lambda: None,
) -> AsyncIterator[Fleet]:
    """All parts of `blueprint` as actors of the configured cluster, ended with the block.

    Args:
        metrics: told about replicas; None: nobody is.
        say: told in one line of every part that is up, now and later, and what one waits for.
        when_connected: see `ray_session`.
    """
    config = blueprint.config
    plan = FleetPlan(
        samplers=RolePlan(
            blueprint.make_sampler, config.sampler.num_replicas, config.max_ongoing_requests(config.sampler)
        ),
        teachers={
            name: RolePlan(
                partial(blueprint.make_teacher, name), teacher.num_replicas, config.max_ongoing_requests(teacher)
            )
            for name, teacher in config.named_teachers.items()
        },
        learner=blueprint.make_learner,
        num_learner_ranks=config.learner.num_ranks,
        num_ids=blueprint.num_ids,
        reward=blueprint.make_reward if blueprint.reward_is_model else None,
        server_teachers=[name for name, teacher in config.named_teachers.items() if teacher.engine == "server"],
    )
    with ray_session(config.cluster, when_connected):
        async with Closing(await start_fleet(plan, config.cluster, config.supervision, metrics, say)) as fleet:
            fleet.shared = {
                name: teacher.base_url for name, teacher in config.named_teachers.items() if teacher.base_url
            }
            if config.reward is not None and not blueprint.reward_is_model:
                fleet.reward = Pool.of([await asyncio.to_thread(blueprint.make_reward)], role="reward")
            yield fleet


@asynccontextmanager
async def ray_journal(folder: Path, config: ClusterConfig) -> AsyncIterator[Journal]:
    """The journal in `folder` as an actor on this machine, inside of the block of a fleet."""
    async with Closing(await lasting_journal(folder.absolute(), config.request_timeout_s)) as journal:
        yield journal
