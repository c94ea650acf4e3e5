"""The reward section and what hangs together with objective.alpha: every mistake a user may make, in words."""

from pathlib import Path

import pytest

from gkd_dist.config.load import dump_run_config, load_run_config
from tests import run_configs

MODELS = ("student.model=s", "teacher.model=t")
ANSWER = ("objective.alpha=0.5", "reward.type=answer")


def problems_of(*overrides: str) -> list[str]:
    return run_configs.problems_of("tiny", (*MODELS, *overrides))


def test_distillation_alone_is_the_default() -> None:
    config = load_run_config("tiny", MODELS)
    assert config.objective.alpha == 1
    assert config.reward is None
    assert config.sampling.num_generations == 1


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (
            ["objective.alpha=0.5"],
            [
                "objective.alpha: 0.5 needs a reward; set reward.type to answer, entailment or python, or objective.alpha=1"  # noqa: E501
            ],
        ),
        (
            ["reward.type=answer"],
            ["reward: not used with objective.alpha=1; set objective.alpha below 1, or remove reward"],
        ),
        (
            ["objective.alpha=0.5", "reward.match=exact"],
            ["reward.type: required, but not given; set it in the file or with reward.type=VALUE"],
        ),
        (["objective.alpha=1.5"], ["objective.alpha: must be between 0 and 1, got 1.5"]),
        (
            ["objective.alpha=0.5", "reward.type=accuracy"],
            ['reward.type: must be one of answer, entailment, python, got "accuracy"'],
        ),
        (
            ["objective.alpha=0.5", "reward.type=python"],
            ["reward: reward.type=python needs reward.function; set it to package.module:function"],
        ),
        (
            ["objective.alpha=0.5", "reward.type=entailment"],
            ["reward: reward.type=entailment needs reward.model; set it to a folder or a hub name"],
        ),
        (
            ["objective.alpha=0.5", "reward.type=python", "reward.function=my.module.function"],
            ['reward.function: must be a function as package.module:function, got "my.module.function"'],
        ),
        (
            [*ANSWER, "reward.model=m", "reward.function=a:b"],
            [
                "reward: type=answer does not use function and model; set type=entailment or python, or remove what it "
                "does not use"
            ],
        ),
        (
            [*ANSWER, "objective.student_fraction=0"],
            [
                "objective.alpha: 0.5 rewards what the student writes, but objective.student_fraction is 0; raise it, "
                "or set objective.alpha=1"
            ],
        ),
        (
            [*ANSWER, "sampling.temperature=0.7", "sampling.top_k=50"],
            [
                "sampling.temperature and sampling.top_k must be left alone with objective.alpha below 1: the policy gradient holds for answers drawn from the student itself; remove what bends the distribution (defaults: temperature=1, top_p=1, top_k=0, min_p=0, teacher_mix=0)"  # noqa: E501
            ],
        ),
        (
            [*ANSWER, "objective.baseline=leave_one_out"],
            [
                "objective.baseline: leave_one_out compares samples of one prompt; set sampling.num_generations to 2 "
                "or more, or objective.baseline=moving_average"
            ],
        ),
        (
            ["sampling.num_generations=3"],
            [
                "learner.batch_size: 4 sequences are no whole number of prompts with sampling.num_generations=3; choose "  # noqa: E501
                "a multiple of it"
            ],
        ),
        (
            ["objective.baseline=moving_average", "objective.beta=0.5"],
            [
                "objective: divergence=forward_kl does not use beta; set divergence=jsd, or remove what it does not use",  # noqa: E501
                "objective: alpha=1 does not use baseline; set alpha below 1, or remove what it does not use",
            ],
        ),
        (
            [*ANSWER, "objective.baseline=leave_one_out", "objective.baseline_decay=0.5", "sampling.num_generations=2"],
            [
                "objective: baseline=leave_one_out does not use baseline_decay; set baseline=moving_average, or remove "
                "what it does not use"
            ],
        ),
    ],
)
def test_a_mistake_is_told_in_words(overrides: list[str], problems: list[str]) -> None:
    assert problems_of(*overrides) == problems


def test_mistakes_of_all_kinds_are_told_at_once() -> None:
    found = problems_of("objective.alpha=0.5", "sampling.num_generations=3", "learner.max_steps=-1")
    assert len(found) == 3


def test_a_schedule_that_reaches_the_student_is_enough() -> None:
    schedule = "objective.schedule={type: linear, final: 1.0}"
    assert load_run_config("tiny", (*MODELS, *ANSWER, "objective.student_fraction=0", schedule)).reward is not None


@pytest.mark.parametrize(
    "overrides",
    [
        [*ANSWER, "reward.match=exact"],
        [*ANSWER, "objective.baseline=leave_one_out", "sampling.num_generations=2"],
        [*ANSWER, "objective.baseline_decay=0.5"],
        ["objective.alpha=0", "reward={type: entailment, model: m, max_length: 64}"],
        ["objective.alpha=0.9", "reward={type: python, function: 'a.b:c'}"],
        [],
    ],
)
def test_a_configuration_survives_the_dump(overrides: list[str], tmp_path: Path) -> None:
    config = load_run_config("tiny", (*MODELS, *overrides))
    path = tmp_path / "config.yaml"
    path.write_text(dump_run_config(config), encoding="utf-8")
    assert load_run_config(str(path)) == config


def test_the_recipe_reinforces_the_correct_answer() -> None:
    config = load_run_config("rl_gkd")
    assert config.objective.alpha == 0.5
    assert config.objective.baseline == "leave_one_out"
    assert config.reward is not None and config.reward.type == "answer"
