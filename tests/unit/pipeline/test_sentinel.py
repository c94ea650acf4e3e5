"""The sentinel: when teachers are asked, what stops the run, and what is recorded."""

import asyncio

import pytest
from test_ring import make_plan, run

from gkd_dist.errors import EngineError, ModelError
from gkd_dist.interfaces import Fleet
from gkd_dist.pipeline.sentinel import check_at_start, due
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher


def test_a_teacher_is_due_every_so_many_steps_but_not_at_the_first() -> None:
    asked = {step: due(step, {"a": 2, "b": 3, "c": 0}) for step in range(7)}
    assert asked == {0: [], 1: [], 2: ["a"], 3: ["b"], 4: ["a"], 5: [], 6: ["a", "b"]}


def test_every_replica_is_asked_and_the_largest_gap_recorded() -> None:
    teachers = {"teacher": [FakeTeacher(gaps_nats=[2e-4]), FakeTeacher(gaps_nats=[5e-4])]}
    plan = make_plan(5, 0.5, sentinel_steps={"teacher": 2})
    metrics, sink = run(plan, Fleet([FakeSampler()], teachers, FakeLearner()))
    assert [teacher.num_checks for teacher in teachers["teacher"]] == [2, 2]
    gaps = [record.get("teacher_golden_gap_nats") for record in sink.records]
    assert gaps == [None, None, 5e-4, None, 0.0]
    assert "sentinel_s" in sink.records[2] and "sentinel_s" not in sink.records[1]
    assert ("gauge", "gkd_teacher_golden_gap_nats", 5e-4, {}) in metrics.calls
    assert metrics.calls.count(("count", "gkd_teacher_checks_total", 2, {})) == 2


def test_a_teacher_that_changes_ends_the_run_before_its_scores_are_trained_on() -> None:
    teachers = [FakeTeacher(), FakeTeacher(gaps_nats=[0.0, 0.4])]
    learner = FakeLearner()
    with pytest.raises(EngineError, match=r"^teacher 1 no longer answers.*largest difference 0.4 nats.*first answers"):
        run(make_plan(9, 0.5, sentinel_steps={"teacher": 2}), Fleet([FakeSampler()], {"teacher": teachers}, learner))
    assert [batch.step for batch in learner.batches] == [0, 1, 2, 3]


def test_named_teachers_are_asked_on_their_own_and_named_in_the_message() -> None:
    teachers = {"maths": [FakeTeacher()], "code": [FakeTeacher(gaps_nats=[0.4])]}
    with pytest.raises(EngineError, match=r"^teacher code 0 no longer"):
        run(make_plan(4, 0.5, sentinel_steps={"maths": 0, "code": 1}), Fleet([FakeSampler()], teachers, FakeLearner()))
    assert teachers["maths"][0].num_checks == 0


def test_a_refusal_at_start_is_the_users_to_mend() -> None:
    fleet = Fleet([], {"teacher": [FakeTeacher(gaps_nats=[0.4])]}, FakeLearner())
    with pytest.raises(ModelError, match=r"^teacher 0 is refused: .*0.4 nats.*teacher.transport") as caught:
        asyncio.run(check_at_start(fleet))
    assert len(str(caught.value).splitlines()) == 1


def test_the_sentinel_changes_nothing_that_is_trained() -> None:
    batches = []
    for steps in (0, 1):
        learner = FakeLearner()
        plan = make_plan(5, 0.5, sentinel_steps={"teacher": steps})
        run(plan, Fleet([FakeSampler()], {"teacher": [FakeTeacher()]}, learner))
        batches.append([[str(item.trajectory.sample_id) for item in batch.scored] for batch in learner.batches])
    assert batches[0] == batches[1]
