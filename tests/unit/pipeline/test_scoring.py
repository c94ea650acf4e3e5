"""Who is asked about which sample, and what is counted."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest

from gkd_dist.data.prompts import PromptStream
from gkd_dist.data.routes import SourceRoute
from gkd_dist.errors import EngineError
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.evaluation import HeldOut, evaluate
from gkd_dist.pipeline.scoring import score
from gkd_dist.targets import HiddenTargets, TargetsHandle, TeacherTargets
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import SampleId, SamplingParams, Trajectory
from tests import tiny
from tests.fleets import fleet_of
from tests.rings import BATCH, make_plan, run

TRAJECTORIES = tiny.trajectories([(2, 3), (4, 1), (1, 6), (3, 2), (2, 2)])


def fleet(**teachers: Sequence[FakeTeacher]) -> Fleet:
    return fleet_of([FakeSampler()], teachers, FakeLearner())


def by_parity(sample_id: SampleId) -> Collection[str]:
    return ("even",) if sample_id.prompt_index % 2 == 0 else ("odd",)


def read_by(teacher: FakeTeacher) -> list[int]:
    return [trajectory.sample_id.prompt_index for call in teacher.calls for trajectory in call]


def test_every_teacher_scores_everything_unless_told_otherwise() -> None:
    scored = asyncio.run(score(fleet(a=[FakeTeacher(2)], b=[FakeTeacher(3)]), TRAJECTORIES))
    for item, trajectory in zip(scored, TRAJECTORIES, strict=True):
        assert item.trajectory is trajectory
        assert [(each.teacher, each.targets.hidden.shape[1]) for each in item.scores] == [("a", 2), ("b", 3)]
        assert (item.scores[0].targets.hidden[:, 0] == trajectory.completion_ids).all()


def test_a_routed_sample_goes_to_its_teacher_alone_and_keeps_its_place() -> None:
    even, odd = [FakeTeacher(), FakeTeacher()], [FakeTeacher()]
    scored = asyncio.run(score(fleet(even=even, odd=odd), TRAJECTORIES, by_parity))
    assert [[each.teacher for each in item.scores] for item in scored] == [["even"], ["odd"]] * 2 + [["even"]]
    for item, trajectory in zip(scored, TRAJECTORIES, strict=True):
        assert (item.scores[0].targets.hidden[:, 0] == trajectory.completion_ids).all()
    assert sorted(read_by(even[0]) + read_by(even[1])) == [0, 2, 4]
    assert read_by(even[0]) and read_by(even[1])  # replicas share the work of their own teacher
    assert read_by(odd[0]) == [1, 3]


def test_a_teacher_without_samples_is_not_asked() -> None:
    idle = FakeTeacher()
    asyncio.run(score(fleet(even=[FakeTeacher()], odd=[idle]), TRAJECTORIES[:1], by_parity))
    assert idle.calls == []


def test_teachers_work_at_the_same_time() -> None:
    """Each waits for the other to begin: one after the other would never end."""
    begun = asyncio.Barrier(2)

    class Waiting(FakeTeacher):
        async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
            await asyncio.wait_for(begun.wait(), timeout=5)
            return await super().score(trajectories)

    scored = asyncio.run(score(fleet(a=[Waiting()], b=[Waiting()]), TRAJECTORIES))
    assert len(scored) == len(TRAJECTORIES)


@pytest.mark.parametrize(("names", "words"), [((), "by nobody"), (("third",), "by third")])
def test_a_sample_without_a_known_teacher_is_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(EngineError, match=f"test/0/0 is to be scored {words}; the teachers are even, odd"):
        asyncio.run(score(fleet(even=[FakeTeacher()], odd=[FakeTeacher()]), TRAJECTORIES, lambda _: names))


def test_the_ring_routes_by_source_and_counts_what_each_teacher_reads() -> None:
    plan = make_plan(5, 0.5)
    rows = [replace(plan.stream.row(index), source="abc"[index % 3]) for index in range(10)]
    stream = PromptStream(rows, run="test", seed=0, shuffle=True)
    plan = replace(plan, stream=stream, teachers_of=SourceRoute(stream, {"a": "one", "b": "one", "c": "two"}))
    parts = fleet(one=[FakeTeacher()], two=[FakeTeacher()])
    metrics, sink = run(plan, parts)
    batches = parts.learner.batches
    for item in (item for batch in batches for item in batch.scored):
        source = plan.stream.row(item.trajectory.sample_id.prompt_index).source
        assert [each.teacher for each in item.scores] == ["two" if source == "c" else "one"]
    assert sum(len(batch.scored) for batch in batches) == 5 * BATCH
    tokens = sum(item.trajectory.num_tokens for batch in batches for item in batch.scored)
    counted = [amount for _, name, amount, _ in metrics.calls if name == "gkd_teacher_scored_tokens_total"]
    assert sum(counted) == sum(record["scored_tokens"] for record in sink.records) == tokens


def test_tokens_that_two_teachers_read_count_twice() -> None:
    parts = fleet(one=[FakeTeacher()], two=[FakeTeacher()])
    _, sink = run(make_plan(2, 1.0), parts)
    tokens = sum(item.trajectory.num_tokens for batch in parts.learner.batches for item in batch.scored)
    assert sum(record["scored_tokens"] for record in sink.records) == 2 * tokens


def test_evaluation_asks_the_same_teachers() -> None:
    even, odd = FakeTeacher(), FakeTeacher()
    held_out = HeldOut(tiny.prompts([3, 4, 5]), [], SamplingParams(max_new_tokens=6), 0, teachers_of=by_parity)
    asyncio.run(evaluate(fleet(even=[even], odd=[odd]), held_out, 0))
    assert (read_by(even), read_by(odd)) == ([0, 2], [1])


class Poisoned(FakeTeacher):
    """Says of the third trajectory what no model can say."""

    def __init__(self, transport: str, poison: float) -> None:
        super().__init__(transport=transport)
        self._poison = poison

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        targets = await super().score(trajectories)
        array = targets[2].hidden if isinstance(targets[2], HiddenTargets) else targets[2].log_probs
        array[-1, ...] = self._poison
        return targets


@pytest.mark.parametrize(
    ("transport", "poison", "words"),
    [
        ("hidden", float("nan"), "hidden: must be finite"),
        ("full", float("nan"), "log_probs: log-probs must be finite"),
        ("full", -float("inf"), "log_probs: log-probs must be finite"),
        ("topk", float("nan"), "log_probs: log-probs must be finite"),
        ("sampled", 0.5, "log_probs: log-probs must be finite and at most"),
    ],
)
def test_targets_that_no_model_can_mean_are_refused(transport: str, poison: float, words: str) -> None:
    parts = fleet(good=[FakeTeacher()], maths=[Poisoned(transport, poison)])
    with pytest.raises(EngineError, match=rf"^the targets of maths for test/2/0 cannot be learned from: {words}"):
        asyncio.run(score(parts, TRAJECTORIES))


@pytest.mark.parametrize("bits", [0x7F80, 0x7FC0, 0xFF80, 0xFFC0])
def test_bfloat16_bits_must_be_finite_too(bits: int) -> None:
    hidden = np.zeros((2, 3), np.uint16)
    assert HiddenTargets(hidden).fault is None
    hidden[1, 1] = bits
    assert HiddenTargets(hidden).fault == "hidden: must be finite (bfloat16 bits)"
