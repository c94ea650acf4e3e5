"""How many whole versions of the weights are alive at once: what cluster.object_store_bytes has to hold of them."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import WeightPublication
from tests.fleets import fleet_of
from tests.rings import BATCH, make_plan, run

STEPS = 12


@pytest.fixture(autouse=True)
def small_heap() -> Iterator[None]:
    """Only what the test makes is looked at by the garbage collector: all that is imported takes a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Publication(WeightPublication):
    """Has no slots, so that it can be referred to weakly."""


class Publishing(FakeLearner):
    """Counts which of its publications anybody still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[weakref.ref[Publication]] = []
        self.most = 0

    async def publish(self) -> WeightPublication:
        found = await super().publish()
        publication = Publication(found.manifest, found.buckets)
        self.published.append(weakref.ref(publication))
        gc.collect()  # what only a cycle holds is not alive
        self.most = max(self.most, sum(each() is not None for each in self.published))
        return publication


class SlowLoader(FakeSampler):
    """Loads weights for as long as the learner takes for several steps."""

    async def load_weights(self, publication: WeightPublication) -> int:
        for _ in range(300):
            await asyncio.sleep(0)
        return await super().load_weights(publication)


@pytest.mark.fault(19)
@pytest.mark.parametrize(("max_staleness", "num_alive"), [(0, 2), (1, 2), (2, 3), (4, 3), (8, 3)])
def test_however_slowly_samplers_load_no_more_versions_are_alive_than_the_key_says(
    max_staleness: int, num_alive: int
) -> None:
    learner = Publishing()
    capacity = BATCH * max(2, max_staleness + 1)
    plan = make_plan(STEPS, 1.0, whole_steps=False, max_staleness=max_staleness, replay_capacity=capacity)
    run(plan, fleet_of([SlowLoader()], {"teacher": [FakeTeacher()]}, learner))
    assert learner.policy_version == STEPS
    assert learner.most == num_alive
