"""From the files of evaluations to tables and pictures."""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from gkd_dist.errors import DataError
from gkd_dist.evaluation.predictions import Prediction, Sample, write_predictions
from gkd_dist.experiments.catalogue import load_experiment
from gkd_dist.experiments.cells import cells
from gkd_dist.experiments.drawing import draw
from gkd_dist.experiments.measurements import NUM_RESAMPLES
from gkd_dist.experiments.plan import PlannedRun, expand
from gkd_dist.experiments.report import write_report
from gkd_dist.experiments.resampling import measure
from gkd_dist.experiments.series import panels
from gkd_dist.experiments.spec import Experiment

MODEL = {"student.model": "m", "teacher.model": "m"}
EXPERIMENT = Experiment.model_validate(
    {
        "title": "test",
        "axes": {"method": {"good": {"title": "Good"}, "bad": None}, "lambda": [0, 1]},
        "seeds": [0, 1],
        "evaluations": {"greedy": {"task": "translation", "data": "test.jsonl"}},
        "stages": {
            "distil": {
                "over": ["method", "lambda", "seed"],
                "recipe": "tiny",
                "overrides": MODEL,
                "evaluate": ["greedy"],
            }
        },
        "plots": {
            "bars": {"kind": "bars", "title": "b", "metric": "bleu", "x": "method", "series": "lambda"},
            "lines": {"kind": "lines", "title": "l", "metric": "bleu", "x": "lambda", "series": "method"},
            "grid": {"kind": "grid", "title": "g", "metric": "bleu", "x": "lambda", "series": "method"},
            "frontier": {
                "kind": "frontier",
                "title": "f",
                "metric": "bleu",
                "x_metric": "reward_mean",
                "x": "lambda",
                "series": "method",
                "where": {"evaluation": "greedy"},
            },
            "empty": {"kind": "bars", "title": "e", "metric": "nothing", "x": "method"},
        },
        "rankings": [{"title": "best", "metric": "bleu", "per": ["lambda"]}],
        "claims": [
            {
                "text": "good above bad",
                "metric": "bleu",
                "per": ["lambda"],
                "above": {"method": "good"},
                "below": {"method": "bad"},
            }
        ],
    }
)
REFERENCES = [" ".join(f"w{(row * 7 + place) % 50}" for place in range(8)) for row in range(60)]


def texts(share_right: float, seed: int) -> list[str]:
    """The references with some words replaced."""
    rng = random.Random(seed)
    return [
        " ".join(word if rng.random() < share_right else "x" for word in reference.split()) for reference in REFERENCES
    ]


def right(text: str) -> float:
    """A reward: the share of words that are no `x`."""
    return 1 - text.split().count("x") / 8


def evaluated(folder: Path, written: Sequence[str]) -> Path:
    """What `gkd eval` leaves."""
    predictions = [
        Prediction("translation", row, "p", (reference,), samples=(Sample(text, 8, False),), rewards=(right(text),))
        for row, (reference, text) in enumerate(zip(REFERENCES, written, strict=True))
    ]
    write_predictions(predictions, folder / "predictions.jsonl")
    settings = {"rouge_stemmer": True, "bleu_tokenize": "13a"}
    (folder / "results.json").write_text(json.dumps({"settings": settings}))
    return folder


def kept(run: PlannedRun, indices: Sequence[int]) -> tuple[PlannedRun, list[Path]]:
    """A run whose evaluation left rows out; what it wrote for a row is the same for all runs."""
    predictions = [
        Prediction("translation", row, "p", (REFERENCES[row],), samples=(Sample(text, 8, False),))
        for row, text in enumerate(texts(0.7, 3))
        if row in indices
    ]
    folder = run.evaluations[0].folder
    write_predictions(predictions, folder / "predictions.jsonl")
    (folder / "results.json").write_text(json.dumps({"settings": {"rouge_stemmer": True, "bleu_tokenize": "13a"}}))
    return run, [folder]


def finished(folder: Path) -> list[tuple[PlannedRun, list[Path]]]:
    """Every run of the plan, the good ones with more words right."""
    runs = []
    for number, run in enumerate(expand(EXPERIMENT, folder)):
        share = 0.9 if run.labels["method"] == "good" else 0.6
        (run.folder / "latest").mkdir(parents=True)
        reward: dict[str, Any] = {"after": {"on_policy/reward_mean": share, "on_policy/objective_nats": None}}
        (run.folder / "latest" / "summary.json").write_text(json.dumps(reward))
        runs.append((run, [evaluated(run.evaluations[0].folder, texts(share, number))]))
    return runs


def test_corpus_bleu_is_measured_and_resampled_by_its_counts(tmp_path: Path) -> None:
    runs = finished(tmp_path)
    found = [each for each in measure(runs) if each.metric == "bleu"]
    written = texts(0.9, 0)
    assert found[0].value == pytest.approx(BLEU().corpus_score(written, [REFERENCES]).score)
    assert found[0].resampled.shape == (NUM_RESAMPLES,)
    assert found[0].resampled.std() > 0
    assert found[0].place == {"method": "good", "lambda": "0", "seed": "0", "stage": "distil", "evaluation": "greedy"}


def test_the_report_has_every_table_and_picture(tmp_path: Path) -> None:
    lines = write_report(EXPERIMENT, measure(finished(tmp_path)), tmp_path, {"cpu_s": 5.0})
    with (tmp_path / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "bleu"]
    assert len(rows) == 8 + 4
    means = [row for row in rows if row["seed"] == "mean"]
    assert all(float(row["low"]) < float(row["value"]) < float(row["high"]) for row in means)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["cpu_s"] == 5.0
    assert "Student's t over seeds" in content["intervals"]
    assert any("nothing is corrected for their number" in text for text in content["caveats"])
    assert [claim["verdict"] for claim in content["claims"]] == ["holds", "holds"]
    assert [table["rows"][0]["method"] for table in content["rankings"]] == ["good", "good"]
    assert {path.name for path in tmp_path.glob("*.svg")} == {"bars.svg", "lines.svg", "grid.svg", "frontier.svg"}
    assert {path.stem for path in tmp_path.glob("*.png")} == {path.stem for path in tmp_path.glob("*.svg")}
    text = "\n".join(lines)
    assert "Good" in text
    (line,) = [line for line in lines if "holds      good above bad (lambda 1): bleu" in line]
    assert line.endswith(", 2 seeds")
    assert "taken as it is" in text


def test_a_reward_is_resampled_with_the_rows_of_the_metric(tmp_path: Path) -> None:
    """Rows with more words right have more of both: drawn together, the two move together."""
    found = measure(finished(tmp_path))
    bleu, reward = (next(each for each in found if each.metric == metric) for metric in ("bleu", "reward_mean"))
    written = texts(0.9, 0)
    assert reward.value == pytest.approx(sum(map(right, written)) / len(written))
    assert reward.num_rows == bleu.num_rows == len(REFERENCES)
    assert float(np.corrcoef(bleu.resampled, reward.resampled)[0, 1]) > 0.5


def test_as_many_rows_are_paired_only_where_they_are_the_same(tmp_path: Path) -> None:
    """Two tokenizers find other prompts too long: with as many rows left, the first of one is not that of the other."""
    first, last, gap = [*range(59)], [*range(1, 60)], [0, *range(2, 60)]
    left = {"first": first, "same": first, "last": last, "last too": last, "gap": gap}
    drawn = {}
    for (name, rows), run in zip(left.items(), expand(EXPERIMENT, tmp_path), strict=False):
        (drawn[name],) = (each for each in measure([kept(run, rows)]) if each.metric == "bleu")
    assert {each.num_rows for each in drawn.values()} == {59}

    def agree(one: str, other: str) -> float:
        return float(np.corrcoef(drawn[one].resampled, drawn[other].resampled)[0, 1])

    assert agree("first", "same") == pytest.approx(1)
    assert agree("last", "last too") == pytest.approx(1)
    # 1,000 resamples that have nothing to do with each other: a standard error of 0.03.
    assert max(abs(agree(one, other)) for one, other in (("first", "last"), ("first", "gap"), ("last", "gap"))) < 0.15


def test_lines_go_from_left_to_right_in_whatever_order_an_axis_is_written(tmp_path: Path) -> None:
    labels = list(EXPERIMENT.axes["lambda"])
    places = dict(zip(labels, range(len(labels), 0, -1), strict=True))
    plot = EXPERIMENT.plots["lines"].model_copy(update={"x_values": places})
    (panel,) = panels(plot, EXPERIMENT, cells(measure(finished(tmp_path))))
    for line in panel.lines:
        assert [point.x for point in line.points] == [1, 2]


def test_points_of_a_frontier_have_intervals_in_both_directions(tmp_path: Path) -> None:
    plot = EXPERIMENT.plots["frontier"]
    shown = panels(plot, EXPERIMENT, cells(measure(finished(tmp_path))))
    points = [point for line in shown[0].lines for point in line.points]
    assert all(point.across is not None and point.across.low < point.x < point.across.high for point in points)
    picture = draw(plot, shown, tmp_path / "with")[0].read_text()
    assert "reward_mean (points joined in the order of lambda)" in picture
    marks = picture.count("<use")
    bare = [replace(line, points=tuple(replace(p, across=None) for p in line.points)) for line in shown[0].lines]
    fewer = draw(plot, [replace(shown[0], lines=tuple(bare))], tmp_path / "without")[0].read_text().count("<use")
    assert marks - fewer >= 2 * len(points)  # two caps each


def test_the_same_numbers_draw_the_same_picture(tmp_path: Path) -> None:
    plot = EXPERIMENT.plots["bars"]
    shown = panels(plot, EXPERIMENT, cells(measure(finished(tmp_path)[:3])))
    first, second = (draw(plot, shown, tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == second
    assert b"Good" in first


def test_half_an_experiment_is_reported_too(tmp_path: Path) -> None:
    write_report(EXPERIMENT, measure(finished(tmp_path)[:2]), tmp_path, {})
    content = json.loads((tmp_path / "results.json").read_text())
    assert {claim["verdict"] for claim in content["claims"]} == {"not measured"}
    write_report(EXPERIMENT, [], tmp_path / "none", {})  # no picture of nothing
    assert json.loads((tmp_path / "none" / "results.json").read_text())["means"] == []


def test_plots_that_show_nothing_are_named_and_their_former_pictures_removed(tmp_path: Path) -> None:
    base = {"kind": "bars", "title": "gained", "metric": "bleu", "x": "method", "relative_to": {"method": "good"}}
    tree = {**EXPERIMENT.model_dump(warnings=False), "plots": {**EXPERIMENT.plots, "gained": base}}
    experiment, runs = Experiment.model_validate(tree), finished(tmp_path)
    (tmp_path / "other.svg").write_text("of somebody else")
    write_report(experiment, measure(runs), tmp_path, {})
    assert (tmp_path / "gained.svg").is_file()
    bad = [(run, folders) for run, folders in runs if run.labels["method"] == "bad"]
    lines = write_report(experiment, measure(bad), tmp_path, {})
    assert [" ".join(line.split()) for line in lines if "not drawn" in line] == [
        "not drawn empty: e: no nothing of what it shows is measured",
        "not drawn gained: gained: no bleu of what it is relative to is measured",
    ]
    assert [line for line in lines if line.startswith("removed")] == [
        f"removed {tmp_path}/gained.{ending}: of a former report" for ending in ("svg", "png")
    ]
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        "bars.svg", "lines.svg", "grid.svg", "frontier.svg", "other.svg"
    }  # fmt: skip
    assert "not drawn" in (tmp_path / "results.txt").read_text()


def test_a_curve_is_judged_once_all_points_of_the_plan_are_there(tmp_path: Path) -> None:
    curve = {**EXPERIMENT.claims[0].model_dump(warnings=False), "per": (), "x": "lambda", "x_metric": "reward_mean"}
    axes = {**EXPERIMENT.axes, "lambda": {"0": {"value": 0}, "0.5": {"value": 0.5}, "1": {"value": 1}}}
    whole = {**EXPERIMENT.model_dump(warnings=False), "claims": [curve], "plots": {}}
    measurements = measure(finished(tmp_path))
    verdicts = []
    for changes in ({}, {"axes": axes}):
        write_report(Experiment.model_validate(whole | changes), measurements, tmp_path, {})
        verdicts.append(json.loads((tmp_path / "results.json").read_text())["claims"][0]["verdict"])
    assert verdicts == ["apart", "not measured"]  # rewards of 0.9 and 0.6; lambda 0.5 is to come


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    runs = finished(tmp_path)
    (runs[0][1][0] / "results.json").write_text("{}")
    with pytest.raises(DataError, match="is not a result of `gkd eval`"):
        measure(runs)


def test_a_fit_writes_its_numbers_and_its_picture(tmp_path: Path) -> None:
    from gkd_dist.experiments.fit_report import write_fit

    experiment, _ = load_experiment("figure2")
    assert experiment.fit is not None
    write_fit(experiment.title, experiment.fit, tmp_path)
    with (tmp_path / "results.csv").open() as file:
        rows = {row["divergence"]: float(row["std"]) for row in csv.DictReader(file)}
    assert rows["forward_kl"] > 2 * rows["reverse_kl"]
    assert (tmp_path / "fit.svg").read_text().count("JSD") + (tmp_path / "fit.svg").read_text().count("jsd") == 3
