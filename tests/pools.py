"""A pool over replicas that do what the test says, in a time that moves when the test says so."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.supervision.health import Reason
from gkd_dist.supervision.pool import Pool
from gkd_dist.testing.fakes import FakeMetrics
from gkd_dist.testing.replicas import FakeLauncher, FakeReplica
from gkd_dist.testing.timing import FakeTime

RULES = SupervisionConfig(
    probe_interval_s=5.0,
    probe_timeout_s=3.0,
    failures_to_condemn=3,
    max_restarts=2,
    restart_backoff_s=1.0,
    max_restart_backoff_s=8.0,
    infra_attempts=4,
    data_attempts=2,
    role_loss_grace_s=60.0,
    drain_timeout_s=20.0,
    catch_up_timeout_s=60.0,
)


class Scene:
    """A pool that was started and is supervised."""

    def __init__(
        self, target: int, launcher: FakeLauncher | None = None, max_ongoing: float = math.inf, **rules: object
    ) -> None:
        self.time = FakeTime()
        self.metrics = FakeMetrics()
        self.launcher = launcher or FakeLauncher()
        self.pool: Pool[FakeReplica] = Pool(
            "sampler", self.launcher, RULES.model_copy(update=rules), target=target, max_ongoing=max_ongoing,
            clock=self.time.clock, sleep=self.time.sleep, metrics=self.metrics,
        )  # fmt: skip

    def ask(self, number: int) -> "asyncio.Task[int]":
        return asyncio.create_task(self.pool.call(lambda replica: replica.serve(number), "sample"))

    async def asked(self, *numbers: int) -> "list[asyncio.Task[int]]":
        tasks = []
        for number in numbers:
            tasks.append(self.ask(number))
            await self.time.settle()
        return tasks

    def where(self, number: int) -> list[int]:
        """Slots whose present replica works on a request."""
        return [each.slot for each in self.launcher.left if number in each.pending]

    def finish(self, number: int) -> None:
        next(each for each in self.launcher.left if number in each.pending).finish(number)

    def reasons(self, slot: int) -> list[Reason]:
        return [event.reason for event in self.pool.events if event.slot == slot]

    def count(self, name: str, **labels: str) -> float:
        return sum(
            amount
            for kind, each, amount, its in self.metrics.calls
            if (kind, each) == ("count", name) and labels.items() <= its.items()
        )


@asynccontextmanager
async def scene(
    target: int, launcher: FakeLauncher | None = None, max_ongoing: float = math.inf, **rules: object
) -> AsyncIterator[Scene]:
    it = Scene(target, launcher, max_ongoing, **rules)
    await it.pool.start()
    supervision = asyncio.create_task(it.pool.supervise())
    await it.time.settle()
    try:
        yield it
    finally:
        assert not supervision.done() or supervision.exception() is None
        supervision.cancel()
        await it.pool.close()
        assert it.launcher.left == []


def in_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), timeout=20))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run
