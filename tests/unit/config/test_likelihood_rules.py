"""divergence=nll: no teacher, and nothing of the student's own text."""

from pathlib import Path

import pytest

from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.errors import ConfigError
from tests import run_configs

SFT = ("student.model=s", "teacher=null", "objective.divergence=nll", "objective.student_fraction=0")


def problems_of(*overrides: str) -> list[str]:
    return run_configs.problems_of("tiny", overrides)


def test_no_teacher_is_needed_or_asked_for(tmp_path: Path) -> None:
    config = load_run_config("tiny", SFT)
    assert config.named_teachers == {} and not config.objective.needs_teacher
    file = tmp_path / "sft.yaml"
    file.write_text(dump_run_config(config))
    assert "\nteacher:" not in file.read_text()
    assert load_run_config(str(file)) == config
    file.write_text("student: {model: s}\nobjective: {divergence: nll, lambda: 0}\n")
    assert load_run_config(str(file)).teacher is None


def test_every_other_divergence_still_needs_one() -> None:
    assert problems_of("student.model=s", "teacher=null") == [
        "teacher: required by objective.divergence, but not given; set teacher.model, or several under teachers"
    ]


def test_all_that_contradicts_maximum_likelihood_is_told_at_once() -> None:
    lines = problems_of(
        "student.model=s",
        "teacher.model=t",
        "objective={divergence: nll, student_fraction: 0.5, schedule: {type: linear, final: 0.25}, beta: 0.1}",
    )
    assert lines == ["objective: divergence=nll does not use beta; set divergence=jsd, or remove what it does not use"]
    lines = problems_of(
        "student.model=s",
        "teacher.model=t",
        "teacher.transport=hidden",
        "sampling.teacher_mix=0.2",
        "objective={divergence: nll, student_fraction: 0.5, schedule: {type: linear, final: 0.25}, alpha: 0.5,"
        " combine_teachers: route}",
    )
    starts = [
        "teacher: objective.divergence=nll learns from the data alone and asks nobody; set teacher=null",
        "objective.combine_teachers=route needs several teachers, and objective.divergence=nll has none",
        "objective.student_fraction (0.5) must be 0 with objective.divergence=nll",
        "objective.schedule.final (0.25) must be 0 with objective.divergence=nll",
        "objective.alpha: 0.5 needs a reward",
        "sampling.teacher_mix must be left alone with objective.alpha below 1",
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


def test_nobody_can_be_mixed_into_what_is_sampled() -> None:
    (problem,) = problems_of(*SFT, "sampling.teacher_mix=0.2")
    assert problem.startswith("sampling.teacher_mix (0.2) draws from two models at once")


def test_named_teachers_are_refused_too(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("student: {model: s}\nobjective: {divergence: nll, lambda: 0}\nteachers: {a: {model: t}}\n")
    with pytest.raises(ConfigError, match=r"^teachers: objective\.divergence=nll learns from the data alone"):
        load_run_config(str(file))
