"""Which objective goes with which transport: refused before anything is loaded, all at once."""

import pytest

from gkd_dist.config.load import load_run_config
from gkd_dist.config.run import RunConfig
from tests import run_configs

MODELS = ("student.model=s", "teacher.model=t")
SAMPLED = ("teacher.transport=sampled", "objective.divergence=reverse_kl", "objective.student_fraction=1")
SEQUENCE = ("objective.divergence=sequence_reverse_kl", "objective.student_fraction=1")


def load(*overrides: str) -> RunConfig:
    return load_run_config("tiny", (*MODELS, *overrides))


def problems_of(*overrides: str) -> list[str]:
    return run_configs.problems_of("tiny", (*MODELS, *overrides))


@pytest.mark.parametrize("base", [SAMPLED, SEQUENCE, (*SAMPLED, *SEQUENCE)])
def test_policy_gradients_are_accepted_on_the_students_own_text(base: tuple[str, ...]) -> None:
    assert not load(*base).samples_off_policy
    assert load(*base, "sampling.temperature=0.9").samples_off_policy
    assert load(*base, "sampling.teacher_mix=0.2").samples_off_policy


@pytest.mark.parametrize("base", [SAMPLED, SEQUENCE])
@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("objective.student_fraction=0.5", "objective.student_fraction must be 1 with "),
        ("objective.schedule={type: linear, final: 0.5}", "objective.schedule.final must be 1 with "),
        ("sampling.top_p=0.9", "sampling.top_p must not cut"),
        ("sampling.top_k=5", "sampling.top_k must not cut"),
        ("sampling.min_p=0.1", "sampling.min_p must not cut"),
    ],
)
def test_policy_gradients_need_whole_draws_from_the_student(base: tuple[str, ...], override: str, start: str) -> None:
    (problem,) = problems_of(*base, override)
    assert problem.startswith(start)


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        ((*SAMPLED, "teacher.temperature=0.5"), "teacher.temperature (0.5) cannot be applied"),
        ((*SAMPLED, "evaluation.temperature=0"), "evaluation.temperature (0) must be 1"),
        (("teacher.transport=topk", "teacher.temperature=1.5"), "teacher.temperature (1.5) is above 1"),
        ((*SEQUENCE, "teacher.transport=topk", "objective.topk_tail=generalized"), "objective.topk_tail=generalized"),
        (("sampling.teacher_mix=0.2", "sampler.engine=vllm"), "sampling.teacher_mix (0.2) draws from two models"),
    ],
)
def test_what_a_transport_or_engine_cannot_do_is_refused(overrides: tuple[str, ...], start: str) -> None:
    (problem,) = problems_of(*overrides)
    assert problem.startswith(start)


@pytest.mark.parametrize(
    "overrides",
    [
        ("teacher.transport=topk", "teacher.temperature=0.1", "objective.topk_tail=generalized"),
        ("teacher.temperature=1.5",),
        (*SAMPLED, "evaluation.temperature=0", "evaluation.enabled=false"),
        ("sampling.teacher_mix=0.2",),
        ("sampling.top_p=0.9", "objective.divergence=reverse_kl"),
        (*SEQUENCE, "objective.length_normalized=false"),
    ],
)
def test_what_they_can_do_is_not(overrides: tuple[str, ...]) -> None:
    assert load(*overrides).learner.max_steps > 0


def test_all_problems_come_at_once() -> None:
    lines = problems_of(
        "teacher.transport=sampled", "teacher.temperature=2", "objective.divergence=jsd", "sampling.top_p=0.5",
        "sampling.max_new_tokens=256",
    )  # fmt: skip
    starts = (
        "sampling.max_new_tokens", "objective.divergence=jsd", "teacher.temperature", "objective.student_fraction",
        "sampling.top_p",
    )  # fmt: skip
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * len(starts)


def test_length_normalisation_belongs_to_sequences() -> None:
    (problem,) = problems_of("objective.length_normalized=false")
    assert problem.startswith("objective: divergence=forward_kl does not use length_normalized")
