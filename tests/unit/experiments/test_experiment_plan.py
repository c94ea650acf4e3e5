"""From the data of an experiment to its runs."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.config.yaml_text import parse_yaml
from gkd_dist.errors import ConfigError
from gkd_dist.experiments.identity import differences, evaluation_identity, identities, settings_of
from gkd_dist.experiments.plan import _of_recipe, expand, override_text
from gkd_dist.experiments.spec import Experiment
from gkd_dist.experiments.texts import fill

TREE: dict[str, Any] = {
    "title": "test",
    "settings": {"train": "train.jsonl", "steps": 3},
    "axes": {
        "size": {"small": {"settings": {"model": "models/small"}}, "large": {"settings": {"model": "models/large"}}},
        "method": {
            "supervised": {"overrides": {"objective.student_fraction": 0}},
            "seqkd": {"overrides": {"data.path": "{stage:written}"}},
        },
        "lambda": [0, 0.25],
    },
    "seeds": [0, 7],
    "evaluations": {
        "greedy": {"task": "translation", "data": "test.jsonl"},
        "sampled": {"task": "translation", "data": "test.jsonl", "sweep": {"decoding.temperature": [0.5, 1.0]}},
    },
    "stages": {
        "teacher": {
            "recipe": "tiny",
            "overrides": {"student.model": "models/new", "teacher.model": "models/new", "data.path": "{train}"},
        },
        "written": {"command": ["generate", "{stage:teacher}", "output={output}"], "output": "written.jsonl"},
        "distil": {
            "over": ["size", "method", "seed"],
            "recipe": "tiny",
            "overrides": {
                "student.model": "{model}",
                "teacher.model": "{stage:teacher}",
                "data.path": "{train}",
                "learner.max_steps": "{steps}",
            },
            "skip": [{"size": "large", "method": "seqkd"}],
            "evaluate": ["greedy", "sampled"],
            "step_cpu_s": 2,
            "fixed_cpu_s": 5,
        },
        "sweep": {
            "over": ["lambda"],
            "recipe": "tiny",
            "overrides": {
                "student.model": "models/small",
                "teacher.model": "{stage:teacher}",
                "data.path": "{train}",
                "objective.student_fraction": "{lambda}",
            },
            "evaluate": ["greedy"],
        },
        "idle": {"recipe": "tiny", "overrides": {"student.model": "m", "teacher.model": "m"}},
    },
}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate({**TREE, **changes})


def test_every_combination_becomes_a_run_of_its_own() -> None:
    """`idle` is left out: nobody reads from it, and it is not evaluated."""
    plan = expand(experiment(), Path("out"))
    assert [run.name for run in plan] == [
        "teacher",
        "written",
        "distil_small_supervised_seed0",
        "distil_small_supervised_seed7",
        "distil_small_seqkd_seed0",
        "distil_small_seqkd_seed7",
        "distil_large_supervised_seed0",
        "distil_large_supervised_seed7",
        "sweep_0",
        "sweep_0.25",
    ]
    assert len({run.folder for run in plan}) == len(plan)
    assert all(run.folder.is_relative_to(Path("out").absolute() / "runs") for run in plan)


def test_a_run_waits_for_the_stages_that_it_reads_from_and_for_no_others() -> None:
    by_name = {run.name: run for run in expand(experiment(), Path("out"))}
    assert by_name["teacher"].waits_for == ()
    assert by_name["written"].waits_for == ("teacher",)
    assert by_name["distil_small_supervised_seed7"].waits_for == ("teacher",)
    assert set(by_name["distil_small_seqkd_seed7"].waits_for) == {"teacher", "written"}
    teacher, student = by_name["teacher"], by_name["distil_small_seqkd_seed0"]
    assert f"teacher.model={teacher.output}" in student.arguments
    assert teacher.output == Path("out").absolute() / "runs/teacher/latest/final"
    assert f"data.path={by_name['written'].folder / 'written.jsonl'}" in student.arguments


def test_values_of_axes_win_over_the_stage_and_keep_their_type() -> None:
    by_name = {run.name: run for run in expand(experiment(), Path("out"))}
    assert by_name["sweep_0.25"].config["objective"]["student_fraction"] == 0.25
    run = by_name["distil_large_supervised_seed7"]
    assert (run.config["seed"], run.config["student"]["model"]) == (7, "models/large")
    assert run.config["objective"]["student_fraction"] == 0
    assert (run.num_steps, run.estimated_cpu_s) == (3, 5 + 3 * 2)
    assert run.config["cluster"]["mode"] == "local"
    assert run.config["metrics"]["port"] is None


def test_a_sweep_of_an_evaluation_is_one_evaluation_for_each_value() -> None:
    run = next(run for run in expand(experiment(), Path("out")) if run.stage == "distil")
    assert [each.name for each in run.evaluations] == ["greedy", "sampled-0.5", "sampled-1.0"]
    last = run.evaluations[-1]
    assert last.arguments == (
        *("eval", str(run.output), "--task", "translation", "--data", "test.jsonl"),
        *("decoding.temperature=1.0", f"output={last.folder}"),
    )


def test_an_evaluation_that_could_not_run_is_found_before_anything_starts() -> None:
    evaluations = {**TREE["evaluations"], "greedy": {"task": "translation", "data": "x", "options": {"nothing": 1}}}
    with pytest.raises(ConfigError, match="nothing"):
        expand(experiment(evaluations=evaluations), Path("out"))


@pytest.mark.parametrize(
    ("stage", "key", "value", "problem"),
    [
        ("distil", "student.model", "{nothing}", "nothing"),
        ("distil", "student.model", "{stage:sweep}", "lambda, which this stage is not"),
        ("distil", "student.model", "{stage:lost}", "no such stage"),
        ("distil", "student.model", "{recipe:student.model}", "needs a setting `task`"),
        ("teacher", "student.model", "{stage:written}", "does not come before"),
        ("distil", "learner.max_stepz", 3, "max_stepz"),
        ("distil", "learner.batch_size", "many", "learner.batch_size"),
    ],
)
def test_what_a_run_could_not_do_is_found_before_any_starts(stage: str, key: str, value: Any, problem: str) -> None:
    stages = {**TREE["stages"], stage: {**TREE["stages"][stage]}}
    stages[stage]["overrides"] = {**stages[stage]["overrides"], key: value}
    with pytest.raises(ConfigError) as caught:
        expand(experiment(stages=stages), Path("out"))
    assert problem in str(caught.value)
    assert len(caught.value.problems) == 1  # each problem once, and nothing about runs that only wait for broken ones


def test_a_text_may_take_a_key_of_the_recipe_of_the_task() -> None:
    """A value that is null in the recipe is null here; templates keep their {prompt}."""
    options = {"template": "{recipe:data.prompt_template}", "max_prompt_tokens": "{recipe:data.max_prompt_tokens}"}
    evaluation = {
        "greedy": {"task": "translation", "data": "x", "options": options},
        "sampled": {**TREE["evaluations"]}["sampled"],
    }
    for task, wanted in (("paper/wmt14", ["template=", "80"]), ("small/multi30k", ["template=null", "64"])):
        settings = {**TREE["settings"], "task": task}
        run = expand(experiment(settings=settings, evaluations=evaluation), Path("out"))[2]
        words = run.evaluations[0].arguments
        assert words[6].startswith(wanted[0])
        assert words[7] == f"max_prompt_tokens={wanted[1]}"
    with pytest.raises(ConfigError, match="has no such key"):
        fill("{recipe:data.nothing}", {}, {"recipe": lambda key: _of_recipe({"task": "small/multi30k"}, key)})


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["rows", "small/multi30k", "data.pathh=x", "--output", "{output}"], "data.pathh"),
        (["generate", "m", "decoding.beams=4", "--output", "{output}"], "decoding.beams"),
    ],
)
def test_options_of_commands_are_checked_too(command: list[str], problem: str) -> None:
    stages = {**TREE["stages"], "written": {"command": command, "output": "written.jsonl"}}
    with pytest.raises(ConfigError, match=problem):
        expand(experiment(stages=stages), Path("out"))


def test_a_setting_without_a_value_has_to_be_given() -> None:
    with pytest.raises(ConfigError, match="train: required, but not given; add train=VALUE"):
        expand(experiment(settings={"train": None, "steps": 3}), Path("out"))


def test_all_settings_without_a_value_are_told_at_once() -> None:
    told = [f"{name}: required, but not given; add {name}=VALUE" for name in ("train", "steps")]
    with pytest.raises(ConfigError) as found:
        expand(experiment(settings={"train": None, "steps": None, "unused": None}), Path("out"))
    assert list(found.value.problems) == told


def test_a_given_output_takes_the_place_of_its_stage() -> None:
    plan = expand(experiment(given={"teacher": "/models/big"}), Path("out"))
    teacher = plan[0]
    assert (teacher.arguments, teacher.output) == ((), Path("/models/big"))
    assert "teacher.model=/models/big" in plan[2].arguments


def test_identities_follow_what_is_computed_and_not_where() -> None:
    here, there = Path("here").absolute(), Path("there").absolute()
    base = identities(expand(experiment(), here), here)
    assert identities(expand(experiment(), there), there) == base
    other = experiment(settings={"train": "train.jsonl", "steps": 4})
    changed = {name for name, digest in identities(expand(other, here), here).items() if digest != base[name]}
    assert changed == {name for name in base if name.startswith("distil")}
    # What the teacher is trained on changes the teacher, and with it everything that reads from it.
    other = experiment(settings={"train": "other.jsonl", "steps": 3})
    assert all(digest != base[name] for name, digest in identities(expand(other, here), here).items())


def test_what_a_run_measures_of_itself_changes_nothing_of_what_it_trains() -> None:
    folder = Path("out").absolute()
    stages = {**TREE["stages"], "teacher": {**TREE["stages"]["teacher"]}}
    stages["teacher"]["overrides"] = {**stages["teacher"]["overrides"], "evaluation.enabled": False}
    other = expand(experiment(stages=stages), folder)
    assert identities(other, folder) == identities(expand(experiment(), folder), folder)


def test_an_evaluation_has_an_identity_of_its_own() -> None:
    folder = Path("out").absolute()
    run = next(run for run in expand(experiment(), folder) if run.evaluations)
    found = {evaluation_identity("run", each, folder) for each in run.evaluations}
    assert len(found) == 3
    assert evaluation_identity("another", run.evaluations[0], folder) not in found


def test_differences_name_keys_and_both_values() -> None:
    folder = Path("out").absolute()
    other = experiment(settings={"train": "train.jsonl", "steps": 4})
    pairs = zip(expand(experiment(), folder), expand(other, folder), strict=True)
    before, after = next(pair for pair in pairs if pair[0].stage == "distil")
    assert differences(settings_of(before, folder), settings_of(after, folder)) == [
        "learner.max_steps: there 3, here 4"
    ]


TEXT = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "))


@given(st.recursive(st.none() | st.booleans() | st.integers() | TEXT, st.lists, max_leaves=5))
def test_overrides_read_back_as_they_were(value: Any) -> None:
    text = override_text(value)
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)
