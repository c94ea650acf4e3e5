"""Work side by side: order, the first error itself, and siblings that end with it."""

import asyncio
from collections.abc import Sequence

import pytest

from gkd_dist.errors import EngineError, StoppedError
from gkd_dist.pipeline.scoring import score
from gkd_dist.supervision.together import beside, gather_all
from gkd_dist.targets import TargetsHandle, TeacherTargets
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import Trajectory
from tests import tiny
from tests.fleets import fleet_of


def test_results_come_in_the_order_of_the_works() -> None:
    async def later(number: int) -> int:
        await asyncio.sleep(0.01 / number)
        return number

    assert asyncio.run(gather_all(later(number) for number in (1, 2, 3))) == [1, 2, 3]
    assert asyncio.run(gather_all([])) == []


def test_the_first_error_is_raised_itself_after_the_others_ended() -> None:
    ended: list[str] = []
    cause = ValueError("the cause")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise EngineError("first") from cause

    async def waits(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)
            if name == "b":
                raise RuntimeError("on the way out")

    with pytest.raises(EngineError, match="first") as caught:
        asyncio.run(gather_all([waits("a"), fails(), waits("b")]))
    assert sorted(ended) == ["a", "b"]
    assert caught.value.__cause__ is cause
    assert caught.value.__notes__ == ["another failed too: RuntimeError('on the way out')"]


def test_a_teacher_that_fails_stops_the_others() -> None:
    class Failing(FakeTeacher):
        async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
            raise EngineError("down")

    class Slow(FakeTeacher):
        stopped = False

        async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.stopped = True
                raise
            return []

    slow = Slow()

    async def work() -> bool:
        with pytest.raises(EngineError, match="down"):
            await score(
                fleet_of([FakeSampler()], {"a": [slow], "b": [Failing()]}, FakeLearner()), tiny.trajectories([(2, 3)])
            )
        return slow.stopped

    assert asyncio.run(work())


def test_the_error_of_the_block_comes_before_what_its_tasks_raise_when_they_are_cancelled() -> None:
    async def fails_on_the_way_out() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise EngineError("cancelled in the middle of a call")

    async def go() -> None:
        async with beside(fails_on_the_way_out()):
            await asyncio.sleep(0)
            raise StoppedError("asked to stop")

    with pytest.raises(StoppedError, match="asked to stop") as caught:
        asyncio.run(go())
    assert caught.value.__notes__ == ["another failed too: EngineError('cancelled in the middle of a call')"]
