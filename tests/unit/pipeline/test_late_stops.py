"""A run that is asked to stop when its last step is done: what it says that it left is there; what is done counts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.errors import StoppedError
from gkd_dist.pipeline.evaluation import HeldOut
from gkd_dist.pipeline.job import distil
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import SamplingParams
from tests import tiny
from tests.fleets import fleet_of
from tests.rings import make_job, make_plan

PROMPTS = tiny.prompts([3, 4])
HELD_OUT = HeldOut(PROMPTS, [], SamplingParams(max_new_tokens=6), num_shown=2, max_teacher_tokens=4)


class StopsWhileSaving(FakeLearner):
    """Asks the run to stop while the student is saved."""

    def __init__(self, stop: asyncio.Event) -> None:
        super().__init__("0")
        self._stop = stop

    async def save(self, path: Path) -> None:
        await super().save(path)
        self._stop.set()


@pytest.mark.fault(33)
@pytest.mark.parametrize("save_steps", [0, 2])
def test_a_run_that_is_stopped_after_its_last_step_goes_on_from_there(tmp_path: Path, save_steps: int) -> None:
    """Its student is saved, and not evaluated yet."""
    plan, stop = make_plan(3, 0.5), asyncio.Event()
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, StopsWhileSaving(stop))
    with pytest.raises(StoppedError, match="before the last evaluation"):
        asyncio.run(distil(make_job(plan, fleet, tmp_path, stop=stop, save_steps=save_steps, held_out=HELD_OUT)))
    again = FakeLearner("1")
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, again)
    outcome = asyncio.run(distil(make_job(plan, fleet, tmp_path, held_out=HELD_OUT)))
    assert outcome.after is not None
    assert again.batches == [], "all steps were done"
    assert again.saved == [tmp_path / "final"]


@pytest.mark.fault(33)
def test_a_run_that_is_stopped_when_nothing_is_left_is_done(tmp_path: Path) -> None:
    """Nobody evaluates, and the student is being saved."""
    stop = asyncio.Event()
    learner = StopsWhileSaving(stop)
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner)
    asyncio.run(distil(make_job(make_plan(3, 0.5), fleet, tmp_path, stop=stop)))
    assert stop.is_set(), "witness"
    assert learner.saved == [tmp_path / "final"]


@pytest.mark.fault(33)
def test_a_run_that_is_stopped_after_its_last_evaluation_keeps_it(tmp_path: Path) -> None:
    """What is still missing is only shown."""
    stop = asyncio.Event()

    class Asked(FakeTeacher):
        async def complete(self, *arguments: Any) -> Any:
            stop.set()
            await asyncio.sleep(3600)

    fleet = fleet_of([FakeSampler()], {"teacher": [Asked()]}, FakeLearner())
    outcome = asyncio.run(distil(make_job(make_plan(3, 0.5), fleet, tmp_path, stop=stop, held_out=HELD_OUT)))
    assert stop.is_set(), "witness"
    assert outcome.after is not None
    assert outcome.teachers == {}
