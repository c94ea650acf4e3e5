"""A learner behind a proxy that says nothing; no cluster is started."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gkd_dist.cluster.proxies import LearnerProxy
from gkd_dist.errors import DeadlineError, LearnerLostError
from gkd_dist.targets import TargetsHandle
from gkd_dist.types import ScoredTrajectory, TeacherScore, TrainBatch
from tests import tiny


class Method:
    """Of an actor that is stopped: nobody answers."""

    def remote(self, *_: object) -> "asyncio.Future[object]":
        return asyncio.get_running_loop().create_future()


class Stream:
    def remote(self) -> AsyncIterator[object]:
        return self._items()

    async def _items(self) -> AsyncIterator[object]:
        yield await asyncio.get_running_loop().create_future()


class Stopped:
    publish = Stream()

    def __getattr__(self, name: str) -> Method:
        return Method()


SCORE = TeacherScore("teacher", TargetsHandle(object(), 0, 1, 4))
BATCH = TrainBatch(0, (ScoredTrajectory(tiny.trajectories([(2, 1)])[0], (SCORE,)),), 1, 1)
FOLDER = Path("folder")
VITAL: dict[str, Callable[[LearnerProxy], Awaitable[object]]] = {
    "train": lambda learner: learner.train(BATCH),
    "publish": lambda learner: learner.publish(),
    "take a snapshot": lambda learner: learner.snapshot(),
    "save to folder": lambda learner: learner.save(FOLDER),
    "restore folder": lambda learner: learner.restore(FOLDER),
}


async def ask(call: Callable[[LearnerProxy], Awaitable[object]]) -> None:
    actor: Any = Stopped()
    await asyncio.wait_for(call(LearnerProxy(actor, "learner", 0.01)), 5)


@pytest.mark.fault(10)
@pytest.mark.parametrize("what", VITAL)
def test_a_learner_that_is_silent_where_the_run_needs_it_counts_as_lost(what: str) -> None:
    with pytest.raises(LearnerLostError, match=f"learner did not {what} within 0 s"):
        asyncio.run(ask(VITAL[what]))


def test_a_ping_without_an_answer_is_silence() -> None:
    with pytest.raises(DeadlineError, match="learner did not answer a ping"):
        asyncio.run(ask(lambda learner: learner.ping()))


def test_a_snapshot_may_take_longer_to_write_than_a_request_until_its_caller_gives_it_up() -> None:
    """A checkpoint has a deadline of its own."""

    async def turn() -> None:
        written = asyncio.get_running_loop().create_future()
        actor: Any = SimpleNamespace(write_snapshot=SimpleNamespace(remote=lambda _: written))
        proxy = LearnerProxy(actor, "learner", 0.01)
        writing = asyncio.create_task(proxy.write_snapshot(FOLDER))
        await asyncio.wait([writing], timeout=0.1)
        assert not writing.done()
        written.set_result(None)
        await writing
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await LearnerProxy(Stopped(), "learner", 60).write_snapshot(FOLDER)  # type: ignore[arg-type]

    asyncio.run(turn())
