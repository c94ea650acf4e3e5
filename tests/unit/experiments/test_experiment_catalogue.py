"""Packaged experiments can be carried out as they are; files and the command line change them as they say."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.config.load import load_run_config
from gkd_dist.config.yaml_text import format_yaml
from gkd_dist.errors import ConfigError
from gkd_dist.experiments.catalogue import experiment_names, experiment_title, load_experiment
from gkd_dist.experiments.places import matches
from gkd_dist.experiments.plan import expand
from gkd_dist.experiments.spec import Experiment
from tests.packaged_experiments import SCALED, eval_config, loaded, planned


@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_packaged_experiments_expand_to_configurations_that_are_valid(name: str, scale: str | None) -> None:
    experiment = loaded(name, scale)
    plan = planned(name, scale)
    assert (experiment.fit is not None) == (not plan)
    places = [{**run.labels, "stage": run.stage, "evaluation": each.name} for run in plan for each in run.evaluations]
    for plot in experiment.plots.values():
        shown = [place for place in places if matches(plot.where, place)]
        assert shown, f"{plot.title} shows nothing"
        axes = [axis for axis in (plot.x, plot.series, plot.panels) if axis is not None]
        assert all(axis in place for place in shown for axis in axes), plot.title
        for other in (plot.relative_to, plot.reference):
            if other is not None:  # evaluated alike: greedy text is compared with greedy text
                assert "evaluation" not in other, plot.title
                there = {place["evaluation"] for place in places if matches(other, place)}
                assert {place["evaluation"] for place in shown} <= there, plot.title
    for claim in experiment.claims if scale != "smoke" else ():
        for side in (claim.above, claim.below):
            found = [place for place in places if matches(claim.where, place) and matches(side, place)]
            assert found, claim.text
            kinds = {tuple(sorted((key, label) for key, label in place.items() if key != "seed")) for place in found}
            apart = [*claim.per, *([claim.x] if claim.x else [])]
            by_place = {tuple(dict(kind).get(axis) for axis in apart) for kind in kinds}
            assert len(kinds) == len(by_place), f"{claim.text}: {side} is several things at one place"


TABLE = {
    "paper/xsum": (40_000, 32, 0.0, (2_000, 10_000), (1024, 64)),
    "paper/wmt14": (100_000, 32, 0.0, (5_000, 0), (80, 80)),
    "paper/gsm8k": (40_000, 32, 0.05, (2_000, 10_000), (512, 320)),
    "paper/flan2021": (50_000, 128, 0.0, (0, 0), (2048, 256)),
}
"""Of the paper: steps, batch, dropout, steps of warm-up and cool-down, tokens of input and output."""
TEACHER_TEMPERATURE = {"paper/gsm8k": 0.1}
LEARNING_RATE = {"paper/wmt14": 3e-4, "paper/gsm8k": 3e-4, "paper/flan2021": 1e-4}


@pytest.mark.parametrize("name", [name for name, scale in SCALED if scale == "paper"])
def test_runs_at_the_scale_of_the_paper_have_its_settings(name: str) -> None:
    experiment = loaded(name, "paper")
    task = str(experiment.settings["task"])
    for run in planned(name, "paper"):
        if run.stage != "distil":
            continue
        learner, data, objective = run.config["learner"], run.config["data"], run.config["objective"]
        assert (
            learner["max_steps"],
            learner["batch_size"],
            learner["dropout"],
            (learner["warmup_steps"], learner["decay_steps"]),
            (data["max_prompt_tokens"], run.config["sampling"]["max_new_tokens"]),
        ) == TABLE[task], run.name
        rewarded = run.config["reward"] is not None
        is_reverse = objective["divergence"] in ("reverse_kl", "sequence_reverse_kl") and not rewarded
        is_small = run.labels["size"] == "t5-small" and not is_reverse
        assert learner["learning_rate"] == LEARNING_RATE.get(task, 1e-3 if is_small else 3e-4), run.name
        if run.config["teacher"] is None or "temperature" in run.labels:  # figure A.14 varies it
            continue
        wanted = TEACHER_TEMPERATURE.get(task, 1.0)
        names = {each.name for each in run.evaluations}
        if task == "paper/xsum" and (run.labels.get("decoding") == "sampled" or "test" not in names):
            wanted = 0.1  # evaluated by sampling
        if run.labels.get("control") == "rlef":
            wanted = 1.0  # no teacher, but the initial student as it is
        assert run.config["teacher"]["temperature"] == wanted, run.name


@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_models_are_asked_as_they_were_trained(name: str, scale: str | None) -> None:
    """Template and lengths of evaluations, and of what the teacher writes, are those of the task's recipe."""
    experiment = loaded(name, scale)
    if experiment.fit is not None:
        return
    recipe = load_run_config(str(experiment.settings["task"]))
    lengths = (recipe.data.max_prompt_tokens, recipe.sampling.max_new_tokens)
    for run in planned(name, scale):
        for evaluation in run.evaluations:
            config = eval_config(evaluation.arguments)
            if config.task not in ("mmlu", "bbh"):  # which bring their own prompts
                assert config.template == recipe.data.prompt_template
                # What begins the next example is no answer; T5's texts have no line breaks.
                assert config.stop == (("\n\nQ:", " Q:") if "\n\nQ: {prompt}" in (config.template or "") else None)
                assert (config.max_prompt_tokens, config.decoding.max_new_tokens) == lengths
                # Every row of the test is scored, and cut as in training where training cuts.
                assert config.overlong.startswith("truncate")
                assert recipe.data.overlong in ("drop", config.overlong)
        if run.stage == "written":
            config = eval_config(run.arguments)
            assert (config.max_prompt_tokens, config.decoding.max_new_tokens) == lengths
            assert config.overlong == recipe.data.overlong
            assert "rows" in run.waits_for
        if run.stage == "rows":
            train = str(Path(str(experiment.settings["train"]).format(**experiment.settings)))
            assert run.config["data"] == {**recipe.data.model_dump(mode="json"), "path": train}


def test_a_reward_is_not_drawn_against_itself() -> None:
    """The reward of this experiment is whether answers are right, which is what accuracy is."""
    experiment = loaded("figure6-gsm8k", "small")
    assert experiment.axes["alpha"]["0.5"].overrides == {"reward.type": "answer"}
    metrics = [each.metric for each in (*experiment.plots.values(), *experiment.claims)]
    assert metrics == ["student_text/jsd_nats"] * 2
    for run in planned("figure6-gsm8k", "small"):
        if run.stage == "distil":
            configs = {each.name: eval_config(each.arguments) for each in run.evaluations}
            assert configs["drawn"].teacher == str(Path("out/runs/teacher/latest/final").absolute())
            assert "teacher" in run.waits_for


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_reward_and_divergence_are_of_what_the_student_wrote_itself(scale: str) -> None:
    """Ids that a calculator put in are neither drawn by the student nor to its credit; accuracy has them beside."""
    for run in planned("figure6-gsm8k", scale):
        configs = {each.name: eval_config(each.arguments) for each in run.evaluations}
        assert list(configs) == (["test"] if run.stage == "teacher" else ["test", "drawn"])
        with_calculator = configs["test"]
        assert (with_calculator.decoding.calculator, with_calculator.decoding.temperature) == ("equations", 0)
        assert with_calculator.reward is None and with_calculator.teacher is None
        if run.stage == "distil":
            drawn, training = configs["drawn"].decoding, run.config["sampling"]
            assert drawn.calculator == "none"
            assert (drawn.temperature, drawn.max_new_tokens) == (training["temperature"], training["max_new_tokens"])
            assert drawn.temperature == 1
            assert configs["drawn"].stop == with_calculator.stop


@pytest.mark.parametrize(
    ("name", "scale"), [pair for pair in SCALED if pair[0].startswith("figure6")], ids=lambda each: str(each)
)
def test_reward_and_metric_of_a_frontier_are_of_the_same_text(name: str, scale: str) -> None:
    """Each evaluation in it has both, with the reward that is trained for; alpha goes from reward alone to none."""
    experiment = loaded(name, scale)
    curves = [each for each in (*experiment.plots.values(), *experiment.claims) if each.x_metric]
    assert {each.x_metric for each in curves} == {"reward_mean"}
    shown = {each.where["evaluation"] for each in curves}
    assert list(experiment.axes["alpha"]) == ["0", "0.25", "0.5", "0.75", "1"]
    for run in planned(name, scale):
        if run.stage != "distil":
            continue
        alpha, reward = run.config["objective"]["alpha"], run.config["reward"]
        assert alpha == float(run.labels["alpha"])
        assert shown <= {each.name for each in run.evaluations}
        for evaluation in run.evaluations:
            if evaluation.name in shown:
                judged = eval_config(evaluation.arguments).reward
                assert judged is not None
                assert reward == (None if alpha == 1 else judged.model_dump(mode="json"))
        assert not run.config["evaluation"]["enabled"]


@pytest.mark.parametrize(("name", "scale"), [("figure1", "paper"), ("figure1", "small")])
def test_a_model_is_asked_on_the_gpu_of_its_run(name: str, scale: str) -> None:
    plan = expand(loaded(name, scale), Path("out"))
    asked = [each.arguments for run in plan for each in run.evaluations]
    asked += [run.arguments for run in plan if run.arguments[:1] == ("generate",)]
    assert len(asked) > 10
    assert {"device=cuda" in arguments for arguments in asked} == {scale == "paper"}
    assert all((run.num_gpus > 0) == (scale == "paper") for run in plan if run.stage != "rows")  # which asks no model


def test_every_figure_of_the_paper_is_there() -> None:
    body = {f"figure{number}" for number in range(1, 12)}
    appendix = {f"figureA{number}" for number in range(11, 16)}  # A.16 is with figure 11
    names = experiment_names()
    assert body | appendix <= set(names)
    assert names.index("figure9") < names.index("figure10") < names.index("figureA11") < names.index("multi30k")
    assert all(experiment_title(name) for name in names)


BASE: dict[str, Any] = {
    "title": "base",
    "settings": {"steps": 3, "model": "m", "data": None},
    "axes": {"size": {"a": None, "b": None}, "lambda": [0, 0.5, 1]},
    "scales": {"small": {"steps": 1}, "large": {"axes.lambda": [0.5], "seeds": [0, 1, 2]}},
    "stages": {
        "teacher": {"recipe": "tiny"},
        "distil": {"over": ["size"], "recipe": "tiny", "overrides": {"learner.max_steps": "{steps}"}},
    },
}


def load(folder: Path, tree: dict[str, Any], *overrides: str, scale: str | None = None) -> Experiment:
    (folder / "base.yaml").write_text(format_yaml(BASE))
    (folder / "file.yaml").write_text(format_yaml(tree))
    return load_experiment(str(folder / "file.yaml"), scale, overrides)[0]


def test_the_first_scale_is_the_default_and_the_command_line_wins(tmp_path: Path) -> None:
    assert load(tmp_path, BASE).settings["steps"] == 1
    assert load(tmp_path, BASE, "steps=7", "steps=8").settings["steps"] == 8
    large = load(tmp_path, BASE, scale="large")
    assert (large.settings["steps"], list(large.axes["lambda"]), large.seeds) == (3, ["0.5"], (0, 1, 2))


def test_a_file_on_top_of_another_wins_key_by_key_and_null_takes_away(tmp_path: Path) -> None:
    tree = {
        "extends": str(tmp_path / "base.yaml"),
        "title": "top",
        "changes": {"axes.size": ["b"], "distil.learner.batch_size": 2},
        "settings": {"model": "other"},
        "stages": {"teacher": None},
        "scales": {"large": None},
    }
    found = load(tmp_path, tree)
    assert (found.title, found.settings["model"], found.settings["steps"]) == ("top", "other", 1)
    assert list(found.axes["size"]) == ["b"]
    assert list(found.stages) == ["distil"]
    assert found.stages["distil"].overrides == {"learner.max_steps": "{steps}"}
    assert found.stages["distil"].asked == {"learner.batch_size": 2}
    assert list(found.scales) == ["small"]


def test_null_takes_away_a_key_of_a_stage_too(tmp_path: Path) -> None:
    """So a file can have a model in the place of what it extends would train."""
    stage = {"recipe": None, "overrides": None, "model": "models/m"}
    tree = {"extends": str(tmp_path / "base.yaml"), "title": "top", "stages": {"distil": stage}}
    distil = load(tmp_path, tree).stages["distil"]
    assert (distil.recipe, distil.overrides, distil.model, distil.over) == (None, {}, "models/m", ("size",))
    assert load(tmp_path, tree, "distil=/other").given == {"distil": "/other"}


def test_a_stage_can_be_given_and_an_override_of_a_stage_wins_over_its_axes(tmp_path: Path) -> None:
    tree = {**BASE, "axes": {"size": {"a": {"overrides": {"learner.max_steps": 9}}, "b": None}}, "scales": {}}
    found = load(tmp_path, tree, "teacher=/models/t", "distil.learner.max_steps=2", "data=x")
    assert found.given == {"teacher": "/models/t"}
    assert found.stages["distil"].asked == {"learner.max_steps": 2}


def test_an_override_of_one_stage_changes_no_other() -> None:
    def rates(*overrides: str) -> dict[str, float]:
        given = ["train=/somewhere", "test=/somewhere", "data=/somewhere", "axes.size=[t5-base]", *overrides]
        known = load_experiment("figure1", "paper")[0].settings
        given = [each for each in given if "." in each or each.partition("=")[0] in known]
        plan = expand(load_experiment("figure1", "paper", given)[0], Path("out"))
        return {run.stage: run.config["learner"]["learning_rate"] for run in plan if run.trains}

    before = rates()
    assert rates("distil.learner.learning_rate=5e-4") == {**before, "distil": 5e-4}


@pytest.mark.parametrize("name", [name for name, scale in SCALED if scale == "small"])
def test_small_divergences_and_methods_are_trained_alike(name: str) -> None:
    """The exception for reverse KL is the paper's, on XSum."""
    rates = {run.config["learner"]["learning_rate"] for run in planned(name, "small") if run.stage == "distil"}
    assert len(rates) <= 1


def test_what_exists_once_stays_itself_when_seeds_are_added() -> None:
    def plan(*overrides: str) -> dict[str, Any]:
        experiment = load_experiment("multi30k", "small", ["data=/somewhere", "axes.size=[500k]", *overrides])[0]
        return {run.name: run.arguments for run in expand(experiment, Path("out"))}

    all_three, others = plan(), plan("seeds=[1, 2]")
    assert others == {name: arguments for name, arguments in all_three.items() if "seed0" not in name}
    assert "seed=0" in all_three["teacher"]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("stepz=3", "stepz: not known here; known are steps, model, data, seeds, axes.size"),
        ("steps=many", "steps: must be a number, got 'many'"),
        ("steps=[1]", "steps: needs one value"),
        ("axes.size=[c]", "axes.size: c; it has a, b"),
        ("seeds=[]", "seeds: give at least one"),
        ("steps", "must look like KEY=VALUE"),
        ("steps={", "is not YAML"),
    ],
)
def test_a_wrong_override_says_what_would_be_right(tmp_path: Path, override: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, BASE, override)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"stages": {"a": {"recipe": "tiny", "over": ["colour"]}}}, "no axis is called colour"),
        ({"stages": {"a": {"recipe": "tiny", "evaluate": ["beam"]}}}, "no evaluation is called beam"),
        ({"stages": {"a_b": {"recipe": "tiny"}}}, "stages.a_b"),
        ({"stages": {"a": {"recipe": "tiny", "command": ["run"], "output": "x"}}}, "a recipe, or a command"),
        ({"stages": {"a": {"recipe": "tiny", "model": "m"}}}, "a recipe, or a command with its output, or a model"),
        ({"stages": {"a": {"model": "m", "overrides": {"learner.max_steps": 1}}}}, "a model has no overrides"),
        ({"stages": {"a": ["recipe"]}}, "file.yaml: stages.a: must be a mapping of keys to values"),
        ({"stages": ["a"]}, "file.yaml: stages: must be a mapping of keys to values"),
        ({"scales": ["small"]}, "file.yaml: scales: must be a mapping of keys to values"),
        ({"scales": {"small": ["steps"]}}, "file.yaml: scales.small: must be a mapping of keys to values"),
        ({"stages": {}}, "an experiment has stages, or fit"),
        ({"changes": None, "axes": None, "stages": None}, "an experiment has stages, or fit"),
        ({"axes": {"steps": [1]}, "stages": {"a": {"recipe": "tiny"}}}, "settings.steps: an axis has this name"),
        ({"nothing": 1}, "nothing: Extra inputs are not permitted"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {**BASE, "scales": {}, **change})
    assert problem in str(caught.value)


def test_an_unknown_name_or_scale_is_told_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="figure99: no such experiment; there are figure1"):
        load_experiment("figure99")
    with pytest.raises(ConfigError, match="--scale huge: figure7 has small, paper"):
        load_experiment("figure7", "huge")


@pytest.mark.parametrize("through", [(), ("second.yaml",)])
def test_a_file_that_extends_itself_is_told(tmp_path: Path, through: Sequence[str]) -> None:
    names = ["first.yaml", *through, "../" + tmp_path.name + "/first.yaml"]
    for name, base in itertools.pairwise(names):
        (tmp_path / name).write_text(format_yaml({"title": "t", "extends": str(tmp_path / base)}))
    with pytest.raises(ConfigError, match=r"first\.yaml: extends goes in a circle: .*first\.yaml -> "):
        load_experiment(str(tmp_path / "first.yaml"))


def test_a_file_may_be_extended_on_two_ways(tmp_path: Path) -> None:
    base = str(tmp_path / "base.yaml")
    (tmp_path / "middle.yaml").write_text(format_yaml({"title": "middle", "extends": base}))
    assert load(tmp_path, {"extends": [base, str(tmp_path / "middle.yaml")]}).title == "middle"  # the last one wins


def test_the_smoke_scale_trains_on_nothing_that_its_teacher_writes() -> None:
    """After four steps it ends no sentence, so there would be no row."""
    assert not [run.name for run in planned("multi30k", "smoke") if run.stage == "written"]
    assert [run.name for run in planned("multi30k", "small") if run.stage == "written"] == ["written"]


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_figures_of_two_students_are_of_two_students(scale: str) -> None:
    smaller, larger = ({run.labels.get("size") for run in planned(name, scale)} for name in ("figure8", "figureA15"))
    assert smaller & larger == {None}


def test_an_option_of_one_evaluation_changes_no_other(tmp_path: Path) -> None:
    shared = {"num_rows": 3}
    evaluations = {name: {"task": "translation", "data": "x", "options": shared} for name in ("a", "b")}
    found = load(tmp_path, {**BASE, "evaluations": evaluations}, "evaluations.a.num_rows=4").evaluations
    assert [found[name].options["num_rows"] for name in ("a", "b")] == [4, 3]
    with pytest.raises(ConfigError, match=r"evaluations\.c\.num_rows: not known here; .*evaluations\.a\.KEY"):
        load(tmp_path, {**BASE, "evaluations": evaluations}, "evaluations.c.num_rows=4")


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_what_is_drawn_is_asked_in_the_template_of_the_recipe_too(scale: str) -> None:
    """No packaged figure draws at scale paper; one of a user may."""
    experiment = loaded("figure7", scale)
    stage = experiment.stages["teacher"].model_copy(update={"evaluate": ("test", "drawn")})
    whole = experiment.model_copy(update={"stages": {"teacher": stage}})
    (teacher,) = expand(whole, Path("out"))
    templates = [eval_config(each.arguments).template for each in teacher.evaluations]
    assert templates[0] == templates[1] == load_run_config(str(experiment.settings["task"])).data.prompt_template
    assert any("template" in word for word in teacher.evaluations[1].arguments) == (scale == "paper")
