"""A sampler that says that other versions wrote its samples than it was given."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from gkd_dist.errors import WeightsError
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import Prompt, SamplingParams, Trajectory, VersionRange
from tests.fleets import fleet_of
from tests.rings import make_plan, run


class LyingSampler(FakeSampler):
    def __init__(self, offset: int) -> None:
        super().__init__()
        self._offset = offset

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        version = max(0, self.policy_version + self._offset)
        answers = await super().sample(prompts, params)
        return [replace(answer, versions=VersionRange(version, version)) for answer in answers]


@pytest.mark.fault(36)
@pytest.mark.parametrize("offset", [3, -3])
@pytest.mark.parametrize("whole_steps", [True, False])
def test_no_version_is_trained_on_that_cannot_be(offset: int, whole_steps: bool) -> None:
    plan = make_plan(6, 0.5, whole_steps=whole_steps, max_staleness=0 if whole_steps else 2, replay_capacity=12)
    learner, liar = FakeLearner(), LyingSampler(offset)
    run(plan, fleet_of([liar, FakeSampler()], {"teacher": [FakeTeacher()]}, learner))
    assert len(liar.calls) > 0
    for batch in learner.batches:
        versions = [item.trajectory.versions for item in batch.scored if item.trajectory.versions]
        assert all(each.newest <= batch.step <= each.oldest + plan.max_staleness for each in versions)


@pytest.mark.fault(36)
def test_a_run_with_no_other_sampler_ends() -> None:
    with pytest.raises(WeightsError, match=r"was written by versions 2 to 2, but version 0 was live on every sampler"):
        run(make_plan(6, 0.5), fleet_of([LyingSampler(2)], {"teacher": [FakeTeacher()]}, FakeLearner()))
