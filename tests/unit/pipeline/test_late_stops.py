"""A run that is asked to stop when its last step is done: it says that it left a checkpoint, so it has to."""

import asyncio
from pathlib import Path

import pytest

from gkd_dist.errors import StoppedError
from gkd_dist.pipeline.job import distil
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from tests.fleets import fleet_of
from tests.rings import make_job, make_plan


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
    plan, stop = make_plan(3, 0.5), asyncio.Event()
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, StopsWhileSaving(stop))
    with pytest.raises(StoppedError):
        asyncio.run(distil(make_job(plan, fleet, tmp_path, stop=stop, save_steps=save_steps)))
    again = FakeLearner("1")
    asyncio.run(distil(make_job(plan, fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, again), tmp_path)))
    assert again.batches == [], "all steps were done"
    assert again.saved == [tmp_path / "final"]
