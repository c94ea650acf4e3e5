"""What the parts of a run need of the cluster; no cluster is started."""

from dataclasses import replace

import pytest

from gkd_dist.cluster import placement
from gkd_dist.cluster.placement import FleetPlan, RolePlan
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.errors import ResourceError
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher


def test_a_teacher_that_asks_a_server_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.ray, "available_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    teachers = {"here": RolePlan(FakeTeacher, 2), "served": RolePlan(FakeTeacher, 3)}
    plan = FleetPlan(RolePlan(FakeSampler), teachers, FakeLearner, 50, server_teachers=["served"])
    config = ClusterConfig(num_gpus_per_teacher=1)
    placement.check_resources(plan, config)
    with pytest.raises(ResourceError, match="GPU: 5 wanted, 2 free"):
        placement.check_resources(replace(plan, server_teachers=[]), config)
