"""Packaged recipes, recipes on top of others, and several at once."""

from pathlib import Path
from typing import Any

import pytest

from gkd_dist.config.data import DataConfig
from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.config.recipes import recipe_names, recipe_summary, recipe_text
from tests import run_configs

MODELS = ("student.model=s", "teacher.model=t")
METHODS = [name for name in recipe_names() if name.startswith("methods/")]
SIZES = [name for name in recipe_names() if name.startswith("sizes/")]
SHARED = ["paper/t5", "small/t5"]
RUNS = [name for name in recipe_names() if name not in (*METHODS, *SIZES, *SHARED)]
TASKS = [
    "paper/xsum",
    "paper/wmt14",
    "paper/gsm8k",
    "paper/flan2021",
    "small/multi30k",
    "small/aeslc",
    "small/arithmetic",
]
REWARDED = ("methods/rl-gkd", "methods/rlef")


def problems_of(recipe: str, *overrides: str) -> list[str]:
    return run_configs.problems_of(recipe, overrides)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def _write(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return _write


# packaged ones


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_it_is(name: str) -> None:
    assert recipe_text(name).startswith("# ")
    assert 20 < len(recipe_summary(name)) <= 120


@pytest.mark.parametrize("name", RUNS)
def test_every_recipe_of_a_run_is_valid_under_its_own_name(name: str, tmp_path: Path) -> None:
    config = load_run_config(name, MODELS if name == "tiny" else ())
    assert config.name == name.replace("/", "-")
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_run_config(config), encoding="utf-8")
    assert load_run_config(str(resolved)) == config


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_with_every_task(task: str, method: str) -> None:
    reward = ("reward.type=answer",) if method in REWARDED else ()
    config = load_run_config(f"{task}+{method}", reward)
    assert config.name == f"{task.replace('/', '-')}-{method.removeprefix('methods/')}"
    plain = load_run_config(task)
    assert (config.learner, config.sampler, config.student) == (plain.learner, plain.sampler, plain.student)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_goes_with_every_task(task: str, size: str) -> None:
    assert load_run_config(f"{task}+methods/sft+{size}").student.model_type == "t5"


def test_the_settings_of_the_paper() -> None:
    """The table of the paper's appendix, task by task."""
    found = {}
    for task in TASKS[:4]:
        config = load_run_config(task)
        learner, teacher = config.learner, config.named_teachers["teacher"]
        assert learner.optimizer == "adafactor"
        found[task] = (
            learner.max_steps,
            learner.batch_size,
            learner.dropout,
            learner.learning_rate,
            (learner.warmup_steps, learner.max_steps - learner.decay_steps),
            (config.data.max_prompt_tokens, config.sampling.max_new_tokens),
            teacher.temperature,
        )
    assert found == {
        "paper/xsum": (40_000, 32, 0.0, 1e-3, (2_000, 30_000), (1024, 64), 1.0),
        "paper/wmt14": (100_000, 32, 0.0, 3e-4, (5_000, 100_000), (80, 80), 1.0),
        "paper/gsm8k": (40_000, 32, 0.05, 3e-4, (2_000, 30_000), (512, 320), 0.1),
        "paper/flan2021": (50_000, 128, 0.0, 1e-4, (0, 50_000), (2048, 256), 1.0),
    }


def test_the_baselines_are_the_same_machine() -> None:
    found = {}
    for method in METHODS:
        objective = load_run_config(
            f"small/multi30k+{method}", ("reward.type=answer",) * (method in REWARDED)
        ).objective
        final = objective.schedule.final
        found[method.removeprefix("methods/")] = (
            objective.divergence,
            objective.student_fraction if final is None else (objective.student_fraction, final),
        )
    assert found == {
        "sft": ("nll", 0),
        "seqkd": ("nll", 0),
        "supervised-kd": ("forward_kl", 0),
        "on-policy": ("forward_kl", 1),
        "mixed": ("forward_kl", 0.5),
        "imitkd": ("forward_kl", (0, 1)),
        "f-distill": ("tvd", 0.5),
        "minillm": ("sequence_reverse_kl", 1),
        "rl-gkd": ("jsd", 1),
        "rlef": ("reverse_kl", 1),
    }


def test_no_question_of_gsm8k_is_left_out_for_its_length() -> None:
    """Four examples leave little of 512 tokens: whatever the tokenizer, it is they that are cut."""
    data = load_run_config("paper/gsm8k").data
    assert (data.overlong, data.prompt_template is not None) == ("truncate_left", True)
    assert str(data.prompt_template).endswith("Q: {prompt}\nA:")


def test_mixtures_of_the_baselines_are_made_alike() -> None:
    """What differs between them is the divergence, and the schedule of lambda; not how lambda fills a batch."""
    mixes = {load_run_config(f"{task}+{method}", ("reward.type=answer",) * (method in REWARDED)).objective.mix
             for task in TASKS for method in METHODS}  # fmt: skip
    assert mixes == {"per_batch"}


# recipes on top of others


def test_a_file_extends_another_key_by_key(write: Any) -> None:
    write("base.yaml", "student: {model: s}\nteacher: {model: t}\nlearner: {max_steps: 7, batch_size: 3}\n")
    child = write("child.yaml", "extends: base.yaml\nname: child\nlearner: {batch_size: 5}\n")
    config = load_run_config(child, ["learner.max_steps=9"])
    assert (config.name, config.student.model) == ("child", "s")
    assert (config.learner.max_steps, config.learner.batch_size) == (9, 5)


def test_later_bases_win_and_the_file_wins_over_all(write: Any) -> None:
    write("a.yaml", "seed: 1\nname: a\nobjective: {lmbda: 0.1, mix: per_sequence}\n")
    write("b.yaml", "seed: 2\nobjective: {lambda: 0.2}\n")
    child = write("c.yaml", "extends: [tiny, a.yaml, b.yaml]\nobjective: {student_fraction: 0.3}\n")
    config = load_run_config(child, MODELS)
    assert (config.seed, config.name, config.objective.student_fraction) == (2, "a", 0.3)
    assert (config.objective.mix, config.sampler.engine) == ("per_sequence", "hf")


def test_null_takes_away_what_a_base_gave(write: Any) -> None:
    child = write(
        "c.yaml", "extends: small/multi30k\nteacher: null\nobjective: {divergence: nll, student_fraction: 0}\n"
    )
    assert load_run_config(child).named_teachers == {}


def test_null_takes_away_what_knows_no_null(write: Any) -> None:
    child = write("c.yaml", "extends: small/arithmetic-rl-gkd\nobjective: {divergence: tvd, beta: null}\n")
    assert load_run_config(child).objective.divergence == "tvd"
    config = load_run_config("small/arithmetic-rl-gkd", ["objective.divergence=reverse_kl", "objective.beta=null"])
    assert config.objective.beta == 0.5 and "beta" not in config.objective.model_fields_set
    assert problems_of("tiny", "student.model=null", "teacher.model=t") == [
        "student.model: must be text, got null",
    ]


def test_null_takes_away_what_another_section_leaves_without_effect(write: Any) -> None:
    base = write("base.yaml", "mode: async\nsampler: {engine: vllm}\nweights: {kv_cache: keep}\n")
    overrides = ["sampler.engine=hf", *MODELS]
    assert "weights.kv_cache" in problems_of(base, *overrides)[0]
    assert load_run_config(base, [*overrides, "weights.kv_cache=null"]).sampler.engine == "hf"


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (["learner.max_steps=null"], ["learner.max_steps: must be a whole number of at least 0, got null"]),
        (["objective.divergence=jsd", "objective.beta=null"], ["objective.beta: must be a number above 0 and below 1, got null"]),  # noqa: E501
        (["student=null"], ["student: must be a mapping (key: value), got null"]),
        (["sampler.engine_args=null"], ["sampler.engine_args: must be a mapping (key: value), got null"]),
        (["teachers={math: {model: t, temperature: null}}", "teacher=null"], ["teachers.math.temperature: must be a number above 0, got null"]),  # noqa: E501
        # What is told about the default that stood in for it is not told twice.
        (["sampler.max_model_len=null", "sampling.max_new_tokens=2000"], ["sampler.max_model_len: must be a whole number of at least 2, got null"]),  # noqa: E501
        # With other faults: those that are without effect stay right.
        (["objective.divergence=tvd", "objective.beta=null", "data.shuffle=null", "learner.batch_size=0"], ["learner.batch_size: must be at least 1, got 0", "data.shuffle: must be true or false, got null"]),  # noqa: E501
    ],
)  # fmt: skip
def test_null_of_a_key_in_use_is_an_error_and_never_the_default(overrides: list[str], problems: list[str]) -> None:
    assert problems_of("tiny", *MODELS, *overrides) == problems


def test_null_takes_away_a_whole_section(write: Any) -> None:
    base = write("base.yaml", "extends: tiny\ndata: {fields: {prompt: q, completion: a}}\n")
    assert load_run_config(base, MODELS).data.fields.prompt == "q"
    assert load_run_config(base, [*MODELS, "data.fields=null"]).data.fields == DataConfig().fields


def test_null_in_a_file_is_as_wrong_as_on_the_command_line(write: Any) -> None:
    child = write("c.yaml", "extends: tiny\nlearner:\n  max_steps:\n")
    assert problems_of(child, *MODELS) == ["learner.max_steps: must be a whole number of at least 0, got null"]


def test_paths_start_at_the_file_that_names_them(write: Any) -> None:
    write("folder/base.yaml", "extends: ../root.yaml\nseed: 3\n")
    write("root.yaml", "name: root\n")
    child = write("child.yaml", "extends: folder/base.yaml\n")
    assert load_run_config(child, MODELS).name == "root"


def test_a_circle_is_refused_with_its_members(write: Any) -> None:
    first = write("first.yaml", "extends: second.yaml\n")
    write("second.yaml", "extends: first.yaml\n")
    assert problems_of(first) == [
        f"extends goes in a circle: {first} -> second.yaml -> first.yaml; take one of them out"
    ]


def test_faults_of_a_base_name_it(write: Any) -> None:
    write("base.yaml", "lerner: {}\n")
    child = write("child.yaml", "extends: base.yaml\nsede: 1\n")
    lines = problems_of(child, *MODELS)
    assert lines == [
        "lerner: unknown key; did you mean learner? (in base.yaml)",
        "sede: unknown key; did you mean seed?",
    ]


def test_what_extends_may_not_be(write: Any) -> None:
    assert "extends must name a recipe, or be a list of names, got 3" in problems_of(write("x.yaml", "extends: 3\n"))[0]
    assert "neither a packaged recipe nor a file" in problems_of(write("y.yaml", "extends: nowhere\n"))[0]
    assert problems_of("quickstart", "extends=tiny")[0].startswith("extends: unknown key")


# several at once


def test_recipes_joined_by_plus_are_laid_over_each_other(write: Any) -> None:
    mine = write("mine.yaml", "name: mine\nlearner: {batch_size: 5}\n")
    config = load_run_config(f"small/multi30k+methods/f-distill+{mine}")
    assert config.name == "small-multi30k-f-distill-mine"
    assert (config.objective.divergence, config.learner.batch_size, config.learner.max_steps) == ("tvd", 5, 1000)


def test_a_file_may_have_a_plus_in_its_name(write: Any) -> None:
    assert load_run_config(write("a+b.yaml", "name: plus\n"), MODELS).name == "plus"


def test_an_unknown_part_is_named() -> None:
    (problem,) = problems_of("small/multi30k+methods/imitkt")
    assert problem.startswith(
        "recipe methods/imitkt: neither a packaged recipe nor a file; did you mean methods/imitkd"
    )
