"""`teachers`, a mapping of sections: in files, overrides, problems and the resolved configuration."""

from pathlib import Path
from typing import Any

import pytest

from gkd_dist.config.load import dump_run_config, load_run_config
from tests import run_configs

ROUTE = """
student: {model: s}
teachers:
  math: {model: a, sources: [gsm8k, svamp]}
  code: {model: b, sources: [mbpp], temperature: 0.5}
objective: {combine_teachers: route}
"""
MIXTURE = """
student: {model: s}
teachers:
  one: {model: a, weight: 2}
  two: {model: b, transport: full, engine: hf}
objective: {combine_teachers: geometric}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def _write(text: str) -> str:
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return _write


def problems_of(path: str, *overrides: str) -> list[str]:
    return run_configs.problems_of(path, overrides)


def test_teachers_keep_their_order_and_their_own_settings(write: Any) -> None:
    config = load_run_config(
        write(ROUTE), ["teachers.math.temperature=0.1", "teachers.math.engine_args.hf_overrides.b=1"]
    )
    assert list(config.named_teachers) == ["math", "code"]
    assert [teacher.temperature for teacher in config.named_teachers.values()] == [0.1, 0.5]
    assert config.named_teachers["math"].engine_args == {"hf_overrides": {"b": 1}}
    assert config.named_teachers["math"].sources == ("gsm8k", "svamp")
    assert config.key_of("math") == "teachers.math"


def test_one_teacher_is_called_teacher() -> None:
    config = load_run_config("quickstart")
    assert list(config.named_teachers) == ["teacher"]
    assert config.key_of("teacher") == "teacher"


def test_one_entry_of_teachers_is_a_single_teacher_with_a_name(write: Any) -> None:
    config = load_run_config(write("student: {model: s}\nteachers: {only: {model: t}}\n"))
    assert list(config.named_teachers) == ["only"]


def test_a_recipe_with_one_teacher_takes_several_by_overrides_and_the_other_way_round(write: Any) -> None:
    config = load_run_config(
        "quickstart",
        [
            "teacher=null",
            "teachers.a.model=x",
            "teachers.b={model: y, weight: 3}",
            "objective.combine_teachers=arithmetic",
        ],
    )
    assert {name: (each.model, each.weight) for name, each in config.named_teachers.items()} == {
        "a": ("x", 1),
        "b": ("y", 3),
    }
    config = load_run_config(write(ROUTE), ["teachers=null", "teacher.model=t", "objective.combine_teachers=null"])
    assert list(config.named_teachers) == ["teacher"]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("teachers.math.temprature=1", "teachers.math.temprature: unknown key; did you mean temperature?"),
        ("teachers.math={model: x, sources: [a], sorces: [a]}", "teachers.math.sorces: unknown key; did you mean sources?"),  # noqa: E501
        ("teachers.math.temperature=0", "teachers.math.temperature: must be above 0, got 0"),
        ("teachers.math.weight=-1", "teachers.math.weight: must be above 0, got -1"),
        ("teachers.math=3", "teachers.math: must be a mapping (key: value), got 3"),
        ("teachers.math=null", "teachers.math: must be a mapping (key: value), got null"),
        ("teachers=3", "teachers: must be a mapping (key: value), or null, got 3"),
        ("teachers.math.sources=gsm8k", 'teachers.math.sources: must be a list of texts, got "gsm8k"'),
        ("teachers.math.sources=[gsm8k, 3]", 'teachers.math.sources: must be a list of texts, got ["gsm8k", 3]'),
        ("teachers.math.model.x=1", "teachers.math.model.x: teachers.math.model holds text; it has no keys below it"),
        ("teachers.third.sources=[x]", "teachers.third.model: required, but not given; set it in the file or with teachers.third.model=VALUE"),  # noqa: E501
        ("teachers.math={sources: [a]}", "teachers.math.model: required, but not given; set it in the file or with teachers.math.model=VALUE"),  # noqa: E501
        ("teachers.math.engine=hf", None),
        ("teachers.math={model: x, engine: hf, engine_args: {a: 1}}", "teachers.math: the hf engine takes no engine_args; use engine=vllm, or set engine_args={}"),  # noqa: E501
        ("teachers.math={model: x, sources: [gsm8k], engine: server, transport: topk, base_url: host}", 'teachers.math.base_url: must be an address such as http://host:8000/v1, or null, got "host"'),  # noqa: E501
        ("teachers.a b={model: x, sources: [y]}", "teachers.a b: a teacher's name must be 1 to 32 letters, digits, dashes and underscores that begin with a letter or digit"),  # noqa: E501
        ("objective.combine_teachers=mean", 'objective.combine_teachers: must be one of route, arithmetic, geometric, or null, got "mean"'),  # noqa: E501
        ("objective.combine_teachers=null", "objective.combine_teachers: required with several teachers; route lets each score the data of its own sources, arithmetic and geometric mix what all of them say"),  # noqa: E501
        ("teacher.model=x", "teacher and teachers are both given; keep one (teacher=null takes the first away)"),
        ("teachers.code.sources=[]", "teachers.code.sources: required with objective.combine_teachers=route; name the data that it scores"),  # noqa: E501
        ("teachers.code.sources=[mbpp, svamp]", "teachers.math.sources and teachers.code.sources: 'svamp' is given 2 times; each source has one teacher"),  # noqa: E501
        ("teachers.code.sources=[mbpp, mbpp]", "teachers.code.sources: 'mbpp' is given 2 times; each source has one teacher"),  # noqa: E501
        ("teachers.code.weight=2", "teachers.code.weight: objective.combine_teachers=route mixes nothing; remove it"),
        ("teachers.code.max_model_len=100", "teachers.code.max_model_len (100) is below sampler.max_model_len (1024): the teacher could not score the longest samples; raise it"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_problem_of_routed_teachers_is_told_in_words(write: Any, override: str, problem: str | None) -> None:
    path = write(ROUTE)
    if problem is None:
        load_run_config(path, [override])
    else:
        assert problems_of(path, override) == [problem]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("teachers.one.transport=topk", "teachers.one.transport=topk: objective.combine_teachers=geometric needs the distribution over the whole vocabulary; use hidden or full"),  # noqa: E501
        ("teachers.one.transport=sampled", "teachers.one.transport=sampled: objective.combine_teachers=geometric needs the distribution over the whole vocabulary; use hidden or full"),  # noqa: E501
        ("teachers.one.sources=[a]", "teachers.one.sources: with objective.combine_teachers=geometric every teacher scores all data; remove them, or set objective.combine_teachers=route"),  # noqa: E501
        ("teachers={one: {model: a}}", "objective.combine_teachers=geometric needs several teachers under teachers, and there is one; remove it"),  # noqa: E501
        ("teachers={}", "teacher: required by objective.divergence, but not given; set teacher.model, or several under teachers"),  # noqa: E501
        ("teachers=null", "teacher.model: required, but not given; set it in the file or with teacher.model=VALUE"),
    ],
)  # fmt: skip
def test_a_problem_of_mixed_teachers_is_told_in_words(write: Any, override: str, problem: str) -> None:
    assert problem in problems_of(write(MIXTURE), override)


@pytest.mark.parametrize("transport", ["topk", "sampled"])
def test_routed_teachers_may_differ_in_their_transport(write: Any, transport: str) -> None:
    student_alone = ["objective.divergence=reverse_kl", "objective.student_fraction=1", "teachers.code.temperature=1"]
    config = load_run_config(write(ROUTE), [f"teachers.code.transport={transport}", *student_alone])
    assert [teacher.transport for teacher in config.named_teachers.values()] == ["hidden", transport]


def test_rules_between_objective_and_transport_name_the_teacher(write: Any) -> None:
    lines = problems_of(write(ROUTE), "teachers.code.transport=sampled")
    assert [line for line in lines if "teachers.code.temperature (0.5) cannot be applied" in line]
    assert all("teachers.code" in line for line in lines)


def test_keys_for_several_teachers_are_refused_for_one() -> None:
    lines = problems_of(
        "quickstart", "teacher.weight=2", "teacher.sources=[x]", "objective.combine_teachers=arithmetic"
    )
    assert [line.split(" ")[0] for line in lines] == [
        "objective.combine_teachers=arithmetic",
        "teacher.sources:",
        "teacher.weight:",
    ]


def test_all_problems_of_several_teachers_come_at_once(write: Any) -> None:
    lines = problems_of(
        write(ROUTE),
        "teachers.math.sources=[]",
        "teachers.math.weight=3",
        "teachers.code.temperature=x",
        "teachers.third={modle: z}",
        "learner.batch_size=0",
    )
    starts = [
        "teachers.third.modle: unknown key",
        "teachers.math.sources: required",
        "teachers.math.weight: ",
        "teachers.code.temperature: must be a number",
        "teachers.third.model: required",
        "teachers.third.sources: required",
        "learner.batch_size: must be",
    ]
    assert len(lines) == len(starts)
    for start in starts:
        assert any(line.startswith(start) for line in lines), start


def test_an_entry_with_nothing_below_it_is_told_what_it_needs(write: Any) -> None:
    (line,) = problems_of(write("student: {model: s}\nteachers:\n  math:\n"))
    assert line.startswith("teachers.math.model: required")


def test_a_wrong_teacher_does_not_make_rules_about_the_others_fail(write: Any) -> None:
    """With the entry taken out there would be one teacher left, and nothing to combine."""
    assert problems_of(write(MIXTURE), "teachers.one=3") == ["teachers.one: must be a mapping (key: value), got 3"]


@pytest.mark.parametrize("text", [ROUTE, MIXTURE])
def test_a_dump_of_several_teachers_loads_back_equal(write: Any, text: str) -> None:
    config = load_run_config(write(text))
    dumped = dump_run_config(config)
    assert load_run_config(write(dumped)) == config
    assert ("weight:" in dumped, "sources:" in dumped) == (text is MIXTURE, text is ROUTE)


def test_a_dump_of_one_teacher_says_nothing_of_several() -> None:
    dumped = dump_run_config(load_run_config("quickstart"))
    assert not any(word in dumped for word in ("teachers", "weight:", "sources:"))
