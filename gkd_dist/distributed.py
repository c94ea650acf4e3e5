"""The same ring with every part in a Ray actor of its own; a reward that is no model stays beside the controller."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from gkd_dist.build import Blueprint
from gkd_dist.cluster.placement import FleetPlan, start_fleet
from gkd_dist.cluster.session import ray_session
from gkd_dist.interfaces import Closing, Fleet


@asynccontextmanager
async def ray_fleet(blueprint: Blueprint) -> AsyncIterator[Fleet]:
    """All parts of `blueprint` as actors of the configured cluster, ended with the block."""
    config = blueprint.config
    plan = FleetPlan(
        samplers=[blueprint.make_sampler] * config.sampler.num_replicas,
        teachers={
            name: [partial(blueprint.make_teacher, name)] * teacher.num_replicas
            for name, teacher in config.named_teachers.items()
        },
        learner=blueprint.make_learner,
        num_learner_ranks=config.learner.num_ranks,
        reward=blueprint.make_reward if blueprint.reward_is_model else None,
        server_teachers=[name for name, teacher in config.named_teachers.items() if teacher.engine == "server"],
    )
    with ray_session(config.cluster):
        async with Closing(await start_fleet(plan, config.cluster)) as fleet:
            if config.reward is None or blueprint.reward_is_model:
                yield fleet
                return
            async with Closing(await asyncio.to_thread(blueprint.make_reward)) as reward:
                yield replace(fleet, reward=reward)
