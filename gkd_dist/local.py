"""The whole ring in one process, without Ray: for debugging, tiny machines and tests."""

import time
from collections.abc import AsyncIterator, Callable, Collection, Container, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from gkd_dist.build import Blueprint
from gkd_dist.closing import Closing, Part
from gkd_dist.fault_points import fault_point
from gkd_dist.fleet import Fleet, role_of
from gkd_dist.interfaces import Metrics
from gkd_dist.replay.journal import Journal
from gkd_dist.serial import SerialThread
from gkd_dist.supervision.census import Census
from gkd_dist.supervision.pool import Pool
from gkd_dist.types import Kept, SampleId, ScoredTrajectory


@asynccontextmanager
async def local_fleet(
    blueprint: Blueprint, metrics: Metrics | None = None, say: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Fleet]:
    """All parts of `blueprint` in this process, closed at the end; when one cannot be built, so are those before it.

    Args:
        metrics: told about replicas; None: nobody is.
        say: told in one line of every part that is up.
    """
    config, census = blueprint.config, Census(metrics)
    builder = SerialThread("builder")  # of this package: who wants to end does not wait for a model that loads
    async with AsyncExitStack() as stack:
        stack.callback(builder.close)

        async def build(name: str, make: Callable[[], Part]) -> Part:
            began = time.monotonic()
            part = await stack.enter_async_context(Closing(await builder.run(lambda: _built(make))))
            say(f"{name} up after {time.monotonic() - began:.1f} s")
            return part

        yield Fleet(
            samplers=Pool.of(
                [await build(f"sampler {slot}", blueprint.make_sampler) for slot in range(config.sampler.num_replicas)],
                config.supervision,
                role="sampler",
                metrics=census,
                max_ongoing=config.max_ongoing_requests(config.sampler),
            ),
            teachers={
                name: Pool.of(
                    [
                        await build(f"{role_of(name)} {slot}", partial(blueprint.make_teacher, name))
                        for slot in range(teacher.num_replicas)
                    ],
                    config.supervision,
                    role=role_of(name),
                    metrics=census,
                    max_ongoing=config.max_ongoing_requests(teacher),
                )
                for name, teacher in config.named_teachers.items()
            },
            learner=await build("learner", blueprint.make_learner),
            reward=Pool.of([await build("reward", blueprint.make_reward)], role="reward") if config.reward else None,
            shared={name: teacher.base_url or "this process" for name, teacher in config.named_teachers.items()},
        )


def _built(make: Callable[[], Part]) -> Part:
    fault_point("local.build")
    return make()


@asynccontextmanager
async def local_journal(folder: Path) -> AsyncIterator["LocalJournal"]:
    """The journal in `folder`, closed at the end."""
    async with Closing(LocalJournal(folder)) as journal:
        yield journal


class LocalJournal:
    """Implements `interfaces.Journal` on a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder)
        self._thread = SerialThread("journal")

    async def read(
        self, finished: Container[SampleId] = frozenset(), progressed: Callable[[], object] = lambda: None
    ) -> Kept:
        def work() -> list[ScoredTrajectory]:
            for _ in self._journal.survey(finished):
                progressed()
            scored = []
            for item in self._journal.surveyed():
                scored.append(item)
                progressed()
            return scored

        scored = await self._thread.run(work)
        return Kept(scored, {file: dict(reasons) for file, reasons in self._journal.lost.items()})

    async def append(self, scored: Sequence[ScoredTrajectory]) -> None:
        await self._thread.run(lambda: self._journal.append(scored))

    async def sync(self) -> None:
        await self._thread.run(self._journal.sync)

    async def forget(self, finished: Container[SampleId]) -> None:
        await self._thread.run(lambda: self._journal.forget(finished))

    async def keep_only(self, wanted: Collection[SampleId], progressed: Callable[[], object] = lambda: None) -> None:
        def work() -> None:
            for _ in self._journal.rewrite(wanted):
                progressed()

        await self._thread.run(work)

    async def close(self) -> None:
        await self._thread.run(self._journal.close)
        self._thread.close()
