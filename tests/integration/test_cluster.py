"""A part that cannot be built in its actor ends the run with its own error."""

import asyncio

import pytest

from gkd_dist.cluster.placement import FleetPlan, RolePlan, start_fleet
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import EngineError, GkdError, ModelError
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher


@pytest.mark.ray
def test_what_a_part_raises_while_it_is_built_arrives_as_it_was_raised() -> None:
    def refused(_: int) -> FakeLearner:  # local functions travel by value: actors cannot import this module
        raise ModelError("this student has no head")

    def broken() -> FakeSampler:
        raise ZeroDivisionError("a fault of ours\nwith a second line")

    plans = [
        (FleetPlan(RolePlan(FakeSampler), {"teacher": RolePlan(FakeTeacher)}, refused, 50), ModelError),
        (FleetPlan(RolePlan(broken), {"teacher": RolePlan(FakeTeacher)}, FakeLearner, 50), EngineError),
    ]
    config = ClusterConfig(num_cpus_per_sampler=0, num_cpus_per_teacher=0, num_cpus_learner=0)
    with ray_session(config):
        for plan, kind in plans:
            with pytest.raises(GkdError) as caught:
                asyncio.run(start_fleet(plan, config, SupervisionConfig()))
            assert type(caught.value) is kind
            assert len(str(caught.value).splitlines()) == 1
    assert "sampler 0 failed to start: ZeroDivisionError" in str(caught.value)
