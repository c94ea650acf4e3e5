"""What the parts of a run need of the cluster; no cluster is started."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from gkd_dist.cluster import placement
from gkd_dist.cluster.launchers import Needs
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


def test_actors_ask_for_the_custom_resources_of_their_role(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"CPU": 8.0, "sampler": 2.0, "teacher": 1.0}
    monkeypatch.setattr(placement.ray, "available_resources", lambda: free)
    teachers = {"here": RolePlan(FakeTeacher, 1), "served": RolePlan(FakeTeacher, 3)}
    plan = FleetPlan(RolePlan(FakeSampler, 2), teachers, FakeLearner, 50, server_teachers=["served"])
    config = ClusterConfig(resources_per_sampler={"sampler": 1}, resources_per_teacher={"teacher": 1})
    placement.check_resources(plan, config)
    with pytest.raises(ResourceError, match=r"\(sampler: 3 wanted, 2 free\)"):
        placement.check_resources(replace(plan, samplers=RolePlan(FakeSampler, 3)), config)
    with pytest.raises(ResourceError, match="node: 2 wanted, 0 free"):
        placement.check_resources(replace(plan, num_learner_ranks=2), ClusterConfig(resources_learner={"node": 1}))


def test_needs_add_up_by_name() -> None:
    wanted = Needs(1, 0, {"a": 0.5}) * 3 + Needs(2, 1, {"b": 1, "a": 1})
    assert wanted == Needs(5, 1, {"a": 2.5, "b": 1})


@pytest.mark.parametrize(("value", "words"), [({"GPU": 1}, "no custom resource"), ({"a": 0}, "greater than 0")])
def test_what_is_no_custom_resource_is_refused(value: dict[str, float], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ClusterConfig(resources_per_sampler=value)
