"""The sentinel: when teachers are asked, what stops the run, and what is recorded."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gkd_dist.checks import TeacherCheck, Tolerance
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import EngineError, ModelError
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.job import distil
from gkd_dist.pipeline.sentinel import AT_ONCE, check_at_start, due
from gkd_dist.replay.ledger import Ledger
from gkd_dist.supervision.health import State
from gkd_dist.supervision.pool import Pool
from gkd_dist.supervision.together import beside
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeSink, FakeTeacher
from tests.fleets import fleet_of
from tests.rings import make_job, make_plan, run


def test_a_teacher_is_due_every_so_many_steps_but_not_at_the_first() -> None:
    asked = {step: due(step, {"a": 2, "b": 3, "c": 0}) for step in range(7)}
    assert asked == {0: [], 1: [], 2: ["a"], 3: ["b"], 4: ["a"], 5: [], 6: ["a", "b"]}


def test_every_replica_is_asked_and_the_largest_gap_recorded() -> None:
    teachers = {"teacher": [FakeTeacher(gaps_nats=[2e-4]), FakeTeacher(gaps_nats=[5e-4])]}
    plan = make_plan(5, 0.5, sentinel_steps={"teacher": 2})
    metrics, sink = run(plan, fleet_of([FakeSampler()], teachers, FakeLearner()))
    assert [teacher.num_checks for teacher in teachers["teacher"]] == [2, 2]
    gaps = [record.get("teacher_golden_gap_nats") for record in sink.records]
    assert gaps == [None, None, 5e-4, None, 0.0]
    assert "sentinel_s" in sink.records[2] and "sentinel_s" not in sink.records[1]
    assert ("gauge", "gkd_teacher_golden_gap_nats", 5e-4, {}) in metrics.calls
    assert metrics.calls.count(("count", "gkd_teacher_checks_total", 2, {})) == 2


class MortalTeacher(FakeTeacher):
    """Its process ends when it is checked."""

    async def verify(self) -> TeacherCheck:
        self.num_checks += 1
        raise EngineError("teacher 0 died while asked to verify its answers")


@pytest.mark.fault(7)
def test_a_teacher_that_dies_while_it_is_checked_is_no_teacher_that_answers_wrongly() -> None:
    dead, living = MortalTeacher(), FakeTeacher()
    plan = make_plan(5, 0.5, sentinel_steps={"teacher": 2})
    metrics, _ = run(plan, fleet_of([FakeSampler()], {"teacher": [dead, living]}, FakeLearner()))
    assert (dead.num_checks, living.num_checks) == (2, 2)
    assert metrics.calls.count(("count", "gkd_teacher_checks_total", 1, {})) == 2


def test_one_replica_of_every_teacher_has_to_be_checked() -> None:
    with pytest.raises(EngineError, match="died while asked to verify"):
        run(
            make_plan(5, 0.5, sentinel_steps={"teacher": 2}),
            fleet_of([FakeSampler()], {"teacher": [MortalTeacher()]}, FakeLearner()),
        )


def test_a_teacher_that_changes_ends_the_run_before_its_scores_are_trained_on() -> None:
    teachers = [FakeTeacher(), FakeTeacher(gaps_nats=[0.0, 0.4])]
    learner = FakeLearner()
    with pytest.raises(EngineError, match=r"^teacher 1 no longer answers.*largest difference 0.4 nats.*first answers"):
        run(make_plan(9, 0.5, sentinel_steps={"teacher": 2}), fleet_of([FakeSampler()], {"teacher": teachers}, learner))
    assert [batch.step for batch in learner.batches] == [0, 1, 2, 3]


@pytest.mark.parametrize(("max_steps", "num_checks"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)])
def test_who_has_scored_since_its_last_check_is_checked_at_the_end(max_steps: int, num_checks: int) -> None:
    watched, ignored = FakeTeacher(), FakeTeacher()
    parts = fleet_of([FakeSampler()], {"watched": [watched], "ignored": [ignored]}, FakeLearner())
    run(make_plan(max_steps, 0.5, sentinel_steps={"watched": 2, "ignored": 0}), parts)
    assert (watched.num_checks, ignored.num_checks) == (num_checks, 0)


@pytest.mark.parametrize(
    ("gaps", "max_steps", "last_good"),
    [([0.4], 1, "before the first step"), ([0.0, 0.4], 4, "at step 2"), ([0.4], 3, "before the first step")],
)
def test_a_failed_check_is_recorded_and_names_the_last_good_one(
    gaps: list[float], max_steps: int, last_good: str, tmp_path: Path
) -> None:
    plan = make_plan(max_steps, 0.5, sentinel_steps={"teacher": 2})
    metrics, sink = FakeMetrics(), FakeSink()
    accounts = StepAccounts(max_steps=max_steps, metrics=metrics, sinks=[sink])
    parts = fleet_of([FakeSampler()], {"teacher": [FakeTeacher(gaps_nats=gaps)]}, FakeLearner())
    with pytest.raises(EngineError, match=f"its last good check was {last_good}: do not trust"):
        ring = make_ring(plan, parts, accounts, ledger=Ledger(tmp_path / "ledger.jsonl"))
        asyncio.run(asyncio.wait_for(run_ring(ring), timeout=20))
    assert ("gauge", "gkd_teacher_golden_gap_nats", 0.4, {}) in metrics.calls
    assert metrics.calls.count(("count", "gkd_teacher_checks_total", 1, {})) == len(gaps)


def test_no_student_is_saved_where_a_teacher_changed_before_the_end(tmp_path: Path) -> None:
    learner = FakeLearner()
    parts = fleet_of([FakeSampler()], {"teacher": [FakeTeacher(gaps_nats=[0.0, 0.4])]}, learner)
    plan = make_plan(3, 0.5, sentinel_steps={"teacher": 50})
    with pytest.raises(EngineError, match="no longer answers"):
        asyncio.run(distil(make_job(plan, parts, tmp_path)))
    assert len(learner.batches) == 3 and learner.saved == []


def test_named_teachers_are_asked_on_their_own_and_named_in_the_message() -> None:
    teachers = {"maths": [FakeTeacher()], "code": [FakeTeacher(gaps_nats=[0.4])]}
    with pytest.raises(EngineError, match=r"^teacher code 0 no longer"):
        run(
            make_plan(4, 0.5, sentinel_steps={"maths": 0, "code": 1}),
            fleet_of([FakeSampler()], teachers, FakeLearner()),
        )
    assert teachers["maths"][0].num_checks == 0


class Answering(FakeTeacher):
    """Has answers, and finds nothing wrong with them."""

    def __init__(self, *log_probs: float) -> None:
        super().__init__()
        self._log_probs = log_probs

    async def verify(self) -> TeacherCheck:
        return replace(await super().verify(), tolerance=Tolerance(0.5, 0.05), top_log_probs=self._log_probs)


@pytest.mark.parametrize(
    ("other", "message"),
    [((-1.0, -2.6), "by up to 0.6 nats"), ((-1.2, -2.2), "0.2 on average"), ((-1.0, -2.09), None)],
)
def test_replicas_of_one_teacher_have_to_agree(other: tuple[float, ...], message: str | None) -> None:
    same, strange = Answering(-1.0, -2.0), Answering(*other)
    apart = fleet_of([FakeSampler()], {"a": [same, same], "b": [strange]}, FakeLearner())
    assert len(asyncio.run(check_at_start(apart))) == 3
    together = fleet_of([FakeSampler()], {"a": [same, same, strange]}, FakeLearner())
    if message is None:
        asyncio.run(check_at_start(together))
        return
    with pytest.raises(ModelError, match=rf"^teacher a 2 is refused: .*same model as teacher a 0.*{message}"):
        asyncio.run(check_at_start(together))


class Slow(FakeTeacher):
    """Says how many are asked at the same time."""

    under_way = most = 0

    async def verify(self) -> TeacherCheck:
        Slow.under_way += 1
        Slow.most = max(Slow.most, Slow.under_way)
        for _ in range(5):
            await asyncio.sleep(0)
        Slow.under_way -= 1
        return await super().verify()


def test_teachers_are_asked_side_by_side_but_so_many_at_most() -> None:
    Slow.most = 0
    fleet = fleet_of([FakeSampler()], {"a": [Slow() for _ in range(70)], "b": [Slow()]}, FakeLearner())
    names = list(asyncio.run(check_at_start(fleet)))
    assert [name.slot for name in names] == [*range(70), 0], "in their order"
    assert Slow.most == AT_ONCE == 64


def test_replicas_that_are_one_server_are_asked_in_turn() -> None:
    """Asked together, they would share its batch."""
    Slow.most = 0
    fleet = fleet_of([FakeSampler()], {"a": [Slow(), Slow()], "b": [Slow()]}, FakeLearner())
    apart = replace(fleet, shared={"a": "http://one", "b": "http://other"})
    assert len(asyncio.run(check_at_start(apart))) == 3
    assert Slow.most == 2
    Slow.most = 0
    together = replace(fleet, shared=dict.fromkeys("ab", "http://one"))
    assert len(asyncio.run(check_at_start(together))) == 3
    assert Slow.most == 1


def test_checks_of_a_run_are_side_by_side_too() -> None:
    Slow.most = 0
    teachers = {"teacher": [Slow(), Slow(), MortalTeacher(), Slow()]}
    run(make_plan(5, 0.5, sentinel_steps={"teacher": 2}), fleet_of([FakeSampler()], teachers, FakeLearner()))
    assert Slow.most == 3


def test_a_refusal_at_start_is_the_users_to_mend() -> None:
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher(gaps_nats=[0.4])]}, FakeLearner())
    with pytest.raises(ModelError, match=r"^teacher 0 is refused: .*0.4 nats.*teacher.transport") as caught:
        asyncio.run(check_at_start(fleet))
    assert len(str(caught.value).splitlines()) == 1


def test_a_refusal_at_start_is_recorded() -> None:
    found: list[TeacherCheck] = []
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher(gaps_nats=[0.4])]}, FakeLearner())
    with pytest.raises(ModelError):
        asyncio.run(check_at_start(fleet, found.extend))
    assert [check.max_gap_nats for check in found] == [0.4]


@pytest.mark.parametrize(("answers", "is_accepted"), [((-1.0, -2.0), True), ((-1.0, -2.6), False)])
def test_a_replica_that_joins_while_the_others_are_checked_is_checked_too(
    answers: tuple[float, ...], is_accepted: bool
) -> None:
    """By `gkd scale`, say: it serves when the check of the first one ends."""
    under_check, go_on = asyncio.Event(), asyncio.Event()

    class Held(Answering):
        async def verify(self) -> TeacherCheck:
            under_check.set()
            await go_on.wait()
            return await super().verify()

    newcomer = Answering(*answers)

    class Starts:
        async def start(self, slot: int) -> Answering:
            return newcomer if slot else Held(-1.0, -2.0)

        async def probe(self, replica: Answering) -> None: ...

        async def kill(self, replica: Answering) -> None: ...

        def waits_for(self, slot: int) -> str:
            return ""

        def describe(self, replica: Answering) -> dict[str, str | int]:
            return {}

    async def turn() -> None:
        pool: Pool[Answering] = Pool("teacher", Starts(), SupervisionConfig(), target=1)
        fleet = replace(fleet_of([FakeSampler()], {}, FakeLearner()), teachers={"teacher": pool})
        await pool.start()
        async with beside(pool.supervise()):
            check = asyncio.create_task(check_at_start(fleet))
            await under_check.wait()
            pool.set_target(2)
            while len(pool.serving) < 2:
                await asyncio.sleep(0)
            go_on.set()
            assert len(await check) == 1
            assert list(pool.serving) == [0], "not before it is checked"
            while pool.states[1] is State.STALE:
                await asyncio.sleep(0)
            assert newcomer.num_checks == 1
            assert pool.states[1] is (State.HEALTHY if is_accepted else State.DEAD)
        await pool.close()

    asyncio.run(asyncio.wait_for(turn(), timeout=20))
