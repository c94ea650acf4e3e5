"""Figures at the scale of the paper: what they share with its recipes, its amounts of data, and its models."""

from collections.abc import Mapping
from typing import Any

import pytest

from gkd_dist.config.load import load_run_config
from gkd_dist.experiments.identity import leaves
from gkd_dist.experiments.plan import PlannedRun
from tests.packaged_experiments import SCALED, loaded, planned

OWN = {
    *("name", "output_dir", "student.model", "teacher.model", "data.path"),  # names and paths
    *("cluster.mode", "metrics.port"),  # several runs share a machine
    *("evaluation.enabled", "checkpoint.save_steps", "checkpoint.journal"),
}
"""Keys in which a run of an experiment and a recipe differ without computing anything else."""


def differing(run: Mapping[str, Any], recipe: str, *overrides: str) -> set[str]:
    """Keys with other values than in the recipe."""
    wanted = load_run_config(recipe, overrides).model_dump(mode="json")
    here, there = dict(leaves("", dict(run))), dict(leaves("", wanted))
    return {key for key in here.keys() | there.keys() if here.get(key) != there.get(key)}


def distilled(name: str, scale: str = "paper", *overrides: str) -> list[PlannedRun]:
    return [run for run in planned(name, scale, *overrides) if run.stage == "distil"]


def test_figure_6_trains_what_the_recipes_with_rewards_train() -> None:
    """The classifier has the GPU too; where alpha is 1 there is none."""
    recipes = {"gkd": "paper/xsum-rl-gkd", "rlef": "paper/xsum-rlef"}
    for run in distilled("figure6", "paper", "seeds=[0]"):
        alpha, rate = run.labels["alpha"], "learner.learning_rate=3e-4"  # the recipes' is that of T5-small
        own = [f"objective.alpha={alpha}", rate]
        without = ["reward=null", "cluster.num_gpus_reward=null"] if alpha == "1" else []
        assert differing(run.config, recipes[run.labels["control"]], *own, *without) <= OWN, run.name
        assert run.config["cluster"]["num_gpus_reward"] == (0 if alpha == "1" else 1)
    assert {run.config["cluster"]["num_gpus_reward"] for run in distilled("figure6", "small")} == {0}


@pytest.mark.parametrize("name", [name for name, scale in SCALED if scale == "paper" and name != "figure4"])
def test_every_row_is_trained_on_where_the_paper_takes_all(name: str) -> None:
    for run in planned(name, "paper"):
        if run.trains:
            assert run.config["data"]["num_train"] is None, run.name
        elif run.stage == "written":
            assert "num_rows=null" in run.arguments


@pytest.mark.parametrize(
    ("scale", "rows"), [("paper", [1_000, 10_000, 50_000, None]), ("small", [71, 710, 3_550, 14_200])]
)
def test_figure_4_takes_the_amounts_of_the_paper_or_its_shares(scale: str, rows: list[int | None]) -> None:
    runs = distilled("figure4", scale)
    shares = loaded("figure4", scale).axes["prompts"]
    found = {run.labels["prompts"]: run.config["data"]["num_train"] for run in runs}
    assert [found[label] for label in shares] == rows
    assert [each.value for each in shares.values()] == [float(label) for label in shares]
    whole = rows[-1] or 203_789  # training split of XSum, less 256 held out
    for label, number in found.items():
        assert (number or whole) / whole == pytest.approx(float(label), rel=0.02)


def test_figure_11_has_its_teacher_and_its_initial_students_beside_it() -> None:
    """They are evaluated as the distilled ones are, and those begin with them."""
    experiment, plan = loaded("figure11", "paper"), planned("figure11", "paper")
    given = {run.name: run for run in plan if not run.arguments}
    assert {name: str(run.output) for name, run in given.items()} == {
        "teacher": "google/flan-t5-xl",
        "init_flan-t5-base": "google/flan-t5-base",
        "init_flan-t5-large": "google/flan-t5-large",
    }
    options = {(each.name, each.arguments[2:-1]) for run in plan for each in run.evaluations}
    assert len(options) == 2
    assert all(len(run.evaluations) == 2 and run.num_gpus == 1 for run in plan)
    for run in distilled("figure11"):
        assert run.config["student"]["model"] == str(given[f"init_{run.labels['size']}"].output)
        assert run.config["teacher"]["model"] == "google/flan-t5-xl"
    assert [each.reference for each in experiment.plots.values() if each.reference] == [{"stage": "teacher"}] * 2
    assert [each.relative_to for each in experiment.plots.values() if each.relative_to] == [{"stage": "init"}] * 2


@pytest.mark.parametrize(("scale", "model"), [("paper", "google/flan-t5-large"), ("small", "scratch:t5")])
def test_the_teacher_of_self_distillation_is_the_student_that_begins(scale: str, model: str) -> None:
    (teacher,) = [run for run in planned("figureA11", scale) if run.stage == "teacher"]
    assert teacher.config["student"]["model"] == model
    runs = distilled("figureA11", scale)
    assert {run.labels["method"] for run in runs} >= {"supervised-kd", "on-policy"}
    for run in runs:
        assert run.config["student"]["model"] == str(teacher.output)
        if run.labels["method"] != "sft":
            assert run.config["teacher"]["model"] == str(teacher.output)
            assert run.config["teacher"]["temperature"] < 1  # otherwise it has nothing to teach on policy
    # It is trained as the initial student of that size is in figure 10.
    (size,) = {run.labels["size"] for run in runs}
    initial = next(run for run in planned("figure10", scale) if run.name == f"init_{size}")
    assert teacher.config == {**initial.config, "output_dir": str(teacher.folder)}
