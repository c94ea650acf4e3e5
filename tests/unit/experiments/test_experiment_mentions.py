"""Plots, rankings and claims that name what is not there are refused, each name by itself."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from gkd_dist.errors import ConfigError
from gkd_dist.evaluation.names import OF_RUN
from gkd_dist.experiments.catalogue import load_experiment
from gkd_dist.experiments.plan import expand
from gkd_dist.experiments.spec import Plot
from gkd_dist.pipeline.evaluation import Evaluation
from gkd_dist.reporting import figures
from gkd_dist.types import DivergenceReport, FinishReason, SampleId, Source, Trajectory

OWN = """
title: Mine
extends: figure5
stages: {distil: {evaluate: [test, sampled]}}
"""


def own(tmp_path: Path, text: str) -> str:
    """A file over one of this package, which has a swept evaluation."""
    path = tmp_path / "own.yaml"
    path.write_text(OWN + text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("plots: {p: {kind: bars, title: t, metric: blue, x: size}}", "plots.p.metric: no metric of test, "),
        ("plots: {p: {kind: bars, title: t, metric: rouge2, x: sise}}", "plots.p.x: no axis is called sise; did you"),
        (
            "plots: {p: {kind: bars, title: t, metric: rouge2, x: evaluation, where: {evaluation: sampled-2}}}",
            "plots.p.where.evaluation: evaluation has no label sampled-2; did you mean sampled-",
        ),
        (
            "plots: {p: {kind: lines, title: t, metric: rouge2, x: size, x_values: {2mm: 1}}}",
            "plots.p.x_values: size has no label 2mm; did you mean 2m?",
        ),
        ("rankings: [{title: t, metric: rouge2, per: [sise]}]", "rankings.0.per.0: no axis is called sise"),
        (
            "claims: [{text: t, metric: rouge2, above: {divergence: onpolicy}, below: {stage: tutor}}]",
            "claims.0.below.stage: stage has no label tutor",
        ),
        (
            "claims: [{text: t, metric: rouge2, above: {divergence: onpolicy}, below: {stage: tutor}}]",
            "claims.0.above.divergence: divergence has no label onpolicy",
        ),
        (
            "claims: [{text: t, metric: on_policy/reward_mean, where: {evaluation: test}, "
            "above: {size: 2m}, below: {size: 500k}}]",
            "claims.0.metric: no metric of test is called on_policy/reward_mean",
        ),
        (
            "claims: [{text: t, metric: rouge2, x: size, x_metric: rouge9, where: {evaluation: test}, "
            "above: {size: 2m}, below: {size: 500k}}]",
            "claims.0.x_metric: no metric of test is called rouge9; did you mean rouge",
        ),
    ],
)
def test_a_name_that_is_not_there_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(own(tmp_path, text))
    assert any(line.startswith(problem) for line in caught.value.problems)


def test_stages_seeds_swept_evaluations_and_a_runs_own_figures_may_be_named(tmp_path: Path) -> None:
    text = (
        "plots: {p: {kind: frontier, title: t, metric: self_bleu, x: evaluation, series: seed, "
        "x_metric: on_policy/reward_mean, "
        "where: {evaluation: [sampled-1.0, held-out], stage: [distil], seed: '7'}}}"
    )
    experiment, _ = load_experiment(own(tmp_path, text))
    assert experiment.plots["p"].metric == "self_bleu"


def test_labels_that_were_taken_away_may_still_be_named() -> None:
    experiment, _ = load_experiment("multi30k", "smoke", ["axes.method=[sft]"])
    assert "on-policy" in experiment.left_out["method"]
    assert any(claim.above == {"method": "on-policy"} for claim in experiment.claims)


def test_every_figure_of_a_run_is_known() -> None:
    report = DivergenceReport(forward_kl=1.0, reverse_kl=1.0, objective=1.0, num_sequences=1, num_tokens=3)
    ids = np.asarray([7], np.int32)
    written = (Trajectory(SampleId("r", 0, 0), ids, ids, Source.GROUND_TRUTH, FinishReason.LENGTH),)
    with_teacher = Evaluation(report, report, written, (), reward_mean=0.5)
    without = Evaluation(None, report, written, ())
    names = {name for each in (with_teacher, without) for name in figures(each)}
    assert names == set(OF_RUN)


def test_the_parts_of_a_file_that_the_page_shows_are_an_experiment(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "paper-figures.md").read_text()
    example = textwrap.dedent("    settings: " + page.partition("    settings: ")[2].partition("\nA *selection*")[0])
    (tmp_path / "mine.yaml").write_text("title: mine\n" + example)
    experiment, scale = load_experiment(str(tmp_path / "mine.yaml"), None, ["data=/pairs"])
    assert (scale, experiment.seeds, list(experiment.axes["lambda"])) == ("small", (0,), ["0", "1"])
    (first, _) = expand(experiment, tmp_path)
    assert [each.name for each in first.evaluations] == ["test", "sampled-0.5", "sampled-1.0"]
    rows = page.partition("| key | what it says |\n")[2].partition("\n\n")[0].splitlines()
    assert {key for row in rows for key in re.findall("`([a-z_]+)`", row.split("|")[1])} == set(Plot.model_fields)
