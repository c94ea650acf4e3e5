"""Which rows of the stream each step uses, when the student answers each prompt several times."""

from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.data.mixture import Mixture

SCHEDULES = (
    ScheduleConfig(),
    ScheduleConfig(type="linear", final=0.2, at_step=17),
    ScheduleConfig(type="step", final=0.9, at_step=5),
)


@st.composite
def settings(draw: st.DrawFn) -> dict:
    num_generations = draw(st.integers(1, 5))
    return {
        "student_fraction": draw(st.integers(0, 20)) / 20,
        "mix": draw(st.sampled_from(["per_batch", "per_sequence"])),
        "schedule": draw(st.sampled_from(SCHEDULES)),
        "batch_size": num_generations * draw(st.integers(1, 6)),
        "seed": draw(st.integers(0, 3)),
        "num_generations": num_generations,
    }


def mixture(student_fraction: float, mix: str, schedule: ScheduleConfig, **rest: int) -> Mixture:
    return Mixture(student_fraction, mix, schedule, max_steps=30, **rest)


@given(settings())
def test_steps_follow_each_other_without_gap_or_overlap(chosen: dict) -> None:
    """Every step takes one row per prompt and per fixed pair, and its sequences fill the batch."""
    mix = mixture(**chosen)
    assert mix.first_position(0) == 0
    for step in range(40):
        num_prompts, num_student = mix.num_prompts(step), mix.num_student(step)
        assert num_student == num_prompts * chosen["num_generations"]
        num_fixed = chosen["batch_size"] - num_student
        assert num_fixed >= 0
        assert mix.first_position(step + 1) - mix.first_position(step) == num_prompts + num_fixed


@given(settings(), st.integers(0, 300))
def test_a_position_depends_on_the_step_alone(chosen: dict, step: int) -> None:
    """A resumed run, which asks for a late step first, gets what the first run had."""
    asked_before, asked_first = mixture(**chosen), mixture(**chosen)
    for earlier in range(0, step, 7):
        asked_before.first_position(earlier)
    assert asked_first.first_position(step) == asked_before.first_position(step)
    assert asked_first.num_student(step) == asked_before.num_student(step)


@given(percent=st.integers(0, 100), num_generations=st.integers(1, 6), num_prompts=st.integers(1, 6))
def test_the_quota_is_one_of_whole_prompts(percent: int, num_generations: int, num_prompts: int) -> None:
    """Half a prompt off at most."""
    chosen = {"batch_size": num_generations * num_prompts, "seed": 0, "num_generations": num_generations}
    mix = mixture(percent / 100, "per_sequence", ScheduleConfig(), **chosen)
    total = 0
    for step in range(50):
        total += mix.num_student(step)
        assert total == num_generations * floor(((step + 1) * num_prompts * percent * 2 + 100) / 200)


def test_one_sample_a_prompt_uses_a_row_for_every_sequence() -> None:
    mix = mixture(0.5, "per_batch", ScheduleConfig(), batch_size=8, seed=0)
    assert [mix.first_position(step) for step in range(4)] == [0, 8, 16, 24]


def test_several_samples_use_one_row() -> None:
    mix = mixture(0.5, "per_sequence", ScheduleConfig(), batch_size=8, seed=0, num_generations=2)
    assert [mix.num_student(step) for step in range(3)] == [4, 4, 4]
    assert [mix.first_position(step) for step in range(3)] == [0, 6, 12]


@pytest.mark.parametrize("num_generations", [0, 3, 16])
def test_the_batch_holds_whole_groups(num_generations: int) -> None:
    with pytest.raises(ValueError, match="must divide batch_size 8"):
        mixture(0.5, "per_batch", ScheduleConfig(), batch_size=8, seed=0, num_generations=num_generations)
