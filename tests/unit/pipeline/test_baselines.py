"""Baselines: advantages from rewards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.errors import EngineError
from gkd_dist.pipeline.baselines import LeaveOneOut, MovingAverage
from gkd_dist.targets import SampledTargets
from gkd_dist.types import (
    FinishReason,
    SampleId,
    ScoredTrajectory,
    Source,
    TeacherScore,
    Trajectory,
    VersionRange,
)

NUMBERS = st.integers(-16, 16).map(lambda number: number / 4)


def item(prompt_index: int, repeat_index: int, reward: float | None) -> ScoredTrajectory:
    """A judged answer of the student, or (without reward) a fixed pair."""
    student = reward is not None
    trajectory = Trajectory(
        SampleId("test", prompt_index, repeat_index),
        np.asarray([3], np.int32),
        np.asarray([4], np.int32),
        Source.STUDENT if student else Source.GROUND_TRUTH,
        FinishReason.STOP,
        behaviour_log_probs=np.zeros(1, np.float32) if student else None,
        versions=VersionRange(0, 0) if student else None,
    )
    return ScoredTrajectory(trajectory, (TeacherScore("teacher", SampledTargets(np.zeros(1, np.float32))),), reward)


def step(*rewards: float | None) -> list[ScoredTrajectory]:
    return [item(index, 0, reward) for index, reward in enumerate(rewards)]


def test_the_moving_average_is_that_of_former_steps() -> None:
    baseline = MovingAverage(0.75)
    first = baseline.advantages(step(1.0, 0.0, None, 0.5))
    assert first.dtype == np.float32
    assert first.tolist() == [0.5, -0.5, 0.0, 0.0]  # its own mean: there is no former step
    assert baseline.advantages(step(1.0, 0.0)).tolist() == [0.5, -0.5]
    assert baseline.advantages(step(2.5, 2.5)).tolist() == [2.0, 2.0]  # against 0.5, not its own mean
    assert baseline.mean == 0.75 * 0.5 + 0.25 * 2.5


def test_steps_without_answers_of_the_student_leave_the_moving_average_alone() -> None:
    baseline = MovingAverage(0.5)
    assert baseline.advantages(step(None, None)).tolist() == [0.0, 0.0]
    assert baseline.mean is None
    baseline.advantages(step(4.0))
    baseline.advantages(step(None))
    assert baseline.mean == 4.0


def test_leave_one_out_compares_with_the_other_samples_of_the_prompt() -> None:
    scored = [item(7, 0, 1.0), item(7, 1, 0.0), item(7, 2, 0.5), item(8, 0, 4.0), item(8, 1, 4.0), item(8, 2, 1.0)]
    scored.append(item(9, 0, None))
    found = LeaveOneOut(3).advantages(scored)
    assert found.dtype == np.float32
    assert found.tolist() == [0.75, -0.75, 0.0, 1.5, 1.5, -3.0, 0.0]


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_leave_one_out_sums_to_zero_in_every_group_and_follows_any_order(groups: list[list[float]], random) -> None:
    scored = [item(prompt, place, rewards[place]) for prompt, rewards in enumerate(groups) for place in range(3)]
    advantages = LeaveOneOut(3).advantages(scored)
    assert np.abs(advantages.reshape(-1, 3).sum(1)).max() < 1e-5  # float32
    order = list(range(len(scored)))
    random.shuffle(order)
    shuffled = LeaveOneOut(3).advantages([scored[index] for index in order])
    assert shuffled.tolist() == advantages[order].tolist()


def test_leave_one_out_refuses_groups_that_are_not_whole() -> None:
    scored = [item(7, 0, 1.0), item(7, 1, 0.0), item(8, 0, 1.0)]
    with pytest.raises(EngineError, match="all 2 samples of a prompt in one step, but only 1 of prompt 8"):
        LeaveOneOut(2).advantages(scored)
    with pytest.raises(ValueError, match="at least 2"):
        LeaveOneOut(1)
