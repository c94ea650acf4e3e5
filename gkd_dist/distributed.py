"""The same ring with every part in a Ray actor of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    )
    with ray_session(config.cluster):
        async with Closing(await start_fleet(plan, config.cluster)) as fleet:
            yield fleet
