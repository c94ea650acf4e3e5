"""The whole ring in one process, without Ray: for debugging, tiny machines and tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gkd_dist.build import Blueprint
from gkd_dist.interfaces import Fleet


@asynccontextmanager
async def local_fleet(blueprint: Blueprint) -> AsyncIterator[Fleet]:
    """All parts of `blueprint` in this process, closed at the end."""
    config = blueprint.config
    fleet = Fleet(
        samplers=[await asyncio.to_thread(blueprint.make_sampler) for _ in range(config.sampler.num_replicas)],
        teachers=[await asyncio.to_thread(blueprint.make_teacher) for _ in range(config.teacher.num_replicas)],
        learner=await asyncio.to_thread(blueprint.make_learner),
    )
    try:
        yield fleet
    finally:
        await fleet.close()
