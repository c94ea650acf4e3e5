"""Held-out evaluation and the whole job over fakes."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.errors import LostTargetsError, RejectedError
from gkd_dist.pipeline.evaluation import HeldOut, evaluate
from gkd_dist.pipeline.evaluation_file import read_evaluation, write_evaluation
from gkd_dist.pipeline.job import distil
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeReward, FakeSampler, FakeTeacher
from gkd_dist.types import Answer, DivergenceReport, FinishReason, SamplingParams, TrainBatch
from tests import tiny
from tests.fleets import fleet_of
from tests.rings import make_job, make_plan

PROMPTS = tiny.prompts([3, 4, 5])
PAIRS = [fixed_trajectory(prompt.sample_id, prompt.token_ids, prompt.token_ids, 4) for prompt in PROMPTS]

HELD_OUT = HeldOut(PROMPTS, PAIRS, SamplingParams(max_new_tokens=6), num_shown=2)


def test_student_text_and_reference_text_are_both_measured() -> None:
    fleet = fleet_of([FakeSampler(), FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner())
    evaluation = asyncio.run(evaluate(fleet, HELD_OUT, 0))
    assert evaluation.on_policy.num_tokens == 3 * 6
    assert evaluation.reference is not None
    assert evaluation.reference.num_tokens == 3 + 4 + 4
    assert evaluation.mean_completion_tokens == 6
    assert evaluation.truncated_share == 1.0
    assert [item.sample_id for item in evaluation.shown] == [prompt.sample_id for prompt in PROMPTS[:2]]
    assert {sample.finish_reason for sample in evaluation.samples} == {FinishReason.LENGTH}


def test_without_references_only_student_text_is_measured() -> None:
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner())
    assert asyncio.run(evaluate(fleet, replace(HELD_OUT, pairs=[]), 0)).reference is None


def test_the_student_text_is_judged_where_there_is_a_reward() -> None:
    reward = FakeReward()
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner(), reward)
    assert asyncio.run(evaluate(fleet, HELD_OUT, 0)).reward_mean is None
    held_out = replace(HELD_OUT, answer_of=lambda item: Answer("", "w " * item.sample_id.prompt_index, None))
    assert asyncio.run(evaluate(fleet, held_out, 0)).reward_mean == (0 + 1 + 2) / 3
    assert len(reward.calls) == 1  # neither the references nor the greedy answers


def test_a_job_evaluates_trains_evaluates_and_saves(tmp_path: Path) -> None:
    fleet, metrics, lines = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner()), FakeMetrics(), []
    plan = make_plan(4, 0.5)
    job = make_job(plan, fleet, tmp_path, metrics, held_out=HELD_OUT, final=Path("final"), narrate=lines.append)
    outcome = asyncio.run(distil(job))
    assert (outcome.before.on_policy.objective, outcome.after.on_policy.objective) == (1.0, 0.2)
    assert fleet.learner.saved == [Path("final")]
    gauges = [labels for kind, name, _, labels in metrics.calls if name == "gkd_held_out_divergence_nats"]
    assert {(labels["text"], labels["when"]) for labels in gauges} == {
        ("on_policy", "before"),
        ("on_policy", "after"),
        ("reference", "before"),
        ("reference", "after"),
    }
    assert any("training for 4 steps" in line for line in lines)


@pytest.mark.fault(14)
def test_targets_that_went_with_their_node_are_scored_again() -> None:
    class Loses(FakeLearner):
        num_lost = 0

        async def evaluate(self, batch: TrainBatch) -> DivergenceReport:
            if self.num_lost < 2:
                self.num_lost += 1
                raise LostTargetsError("gone with their node")
            return await super().evaluate(batch)

    fleet = fleet_of([FakeSampler()], {"teacher": [teacher := FakeTeacher()]}, Loses())
    assert asyncio.run(evaluate(fleet, replace(HELD_OUT, pairs=[]), 0)).on_policy is not None
    assert len(teacher.calls) == 3


class Choosy(FakeTeacher):
    """Refuses what has these many prompt tokens."""

    def __init__(self, *refused: int) -> None:
        super().__init__()
        self.refused = refused

    async def score(self, trajectories):
        if any(item.prompt_ids.size in self.refused for item in trajectories):
            raise RejectedError("too long for this teacher")
        return await super().score(trajectories)


def test_a_sequence_that_no_teacher_can_score_is_left_out() -> None:
    fleet = fleet_of([FakeSampler()], {"teacher": [Choosy(4)]}, FakeLearner())
    evaluation = asyncio.run(evaluate(fleet, HELD_OUT, 0))
    assert (evaluation.on_policy.num_tokens, evaluation.reference.num_tokens) == (2 * 6, 3 + 4)
    assert len(evaluation.samples) == 3


def test_a_teacher_that_scores_nothing_is_an_error() -> None:
    fleet = fleet_of([FakeSampler()], {"teacher": [Choosy(3, 4, 5)]}, FakeLearner())
    with pytest.raises(RejectedError, match="no held-out sequence"):
        asyncio.run(evaluate(fleet, HELD_OUT, 0))


class ChoosySampler(FakeSampler):
    """Refuses prompts of these lengths, greedy ones too."""

    def __init__(self, *refused: int) -> None:
        super().__init__()
        self.refused = refused

    async def sample(self, prompts, params):
        if any(prompt.token_ids.size in self.refused for prompt in prompts):
            raise RejectedError("too long for this sampler")
        return await super().sample(prompts, params)


def test_a_prompt_that_no_sampler_answers_is_left_out_and_counted(tmp_path: Path) -> None:
    fleet = fleet_of([ChoosySampler(4), ChoosySampler(4)], {"teacher": [Choosy(5)]}, FakeLearner())
    evaluation = asyncio.run(evaluate(fleet, HELD_OUT, 0))
    assert [each.sample_id for each in evaluation.samples] == [PROMPTS[0].sample_id, PROMPTS[2].sample_id]
    assert [each.sample_id for each in evaluation.shown] == [PROMPTS[0].sample_id]
    assert (evaluation.num_unsampled, evaluation.num_unscored) == (1, 2)  # a sample and a reference
    assert evaluation.on_policy.num_tokens == 6
    assert evaluation.left_out == (
        "1 prompt(s) that no sampler answered and 2 sequence(s) that a teacher did not score"
    )
    write_evaluation(evaluation, tmp_path / "before.json")
    again = read_evaluation(tmp_path / "before.json")
    assert again is not None and again.left_out == evaluation.left_out
    assert [each.sample_id for each in again.samples] == [each.sample_id for each in evaluation.samples]


def test_what_is_left_out_is_said_aloud(tmp_path: Path) -> None:
    said: list[str] = []
    fleet = fleet_of([ChoosySampler(4)], {"teacher": [FakeTeacher()]}, FakeLearner())
    job = make_job(make_plan(2, 0.5), fleet, tmp_path, held_out=HELD_OUT, narrate=said.append)
    asyncio.run(distil(job))
    left_out = [line for line in said if line.startswith("left out")]
    assert left_out == ["left out of the evaluation: 1 prompt(s) that no sampler answered; the log says why"] * 2


def test_nothing_is_left_out_of_an_evaluation_that_covers_everything() -> None:
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner())
    assert asyncio.run(evaluate(fleet, HELD_OUT, 0)).left_out == ""


def test_samplers_that_answer_nothing_are_an_error() -> None:
    fleet = fleet_of([ChoosySampler(3, 4, 5)], {"teacher": [FakeTeacher()]}, FakeLearner())
    with pytest.raises(RejectedError, match="no held-out prompt can be answered"):
        asyncio.run(evaluate(fleet, HELD_OUT, 0))
