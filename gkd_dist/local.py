"""The whole ring in one process, without Ray: for debugging, tiny machines and tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from gkd_dist.build import Blueprint
from gkd_dist.interfaces import Closing, Fleet, Part
from gkd_dist.supervision.pool import Pool


@asynccontextmanager
async def local_fleet(blueprint: Blueprint) -> AsyncIterator[Fleet]:
    """All parts of `blueprint` in this process, closed at the end; when one cannot be built, so are those before it."""
    config = blueprint.config
    async with AsyncExitStack() as stack:

        async def build(make: Callable[[], Part]) -> Part:
            return await stack.enter_async_context(Closing(await asyncio.to_thread(make)))

        yield Fleet(
            samplers=Pool.of([await build(blueprint.make_sampler) for _ in range(config.sampler.num_replicas)]),
            teachers={
                name: Pool.of([await build(partial(blueprint.make_teacher, name)) for _ in range(teacher.num_replicas)])
                for name, teacher in config.named_teachers.items()
            },
            learner=await build(blueprint.make_learner),
            reward=await build(blueprint.make_reward) if config.reward else None,
        )
