"""Which figures predictions have, by hand; and predictions as a file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gkd_dist.config.evaluation import TaskName
from gkd_dist.errors import DataError
from gkd_dist.evaluation.intervals import Bootstrap
from gkd_dist.evaluation.metrics import MetricSettings, Report, compute
from gkd_dist.evaluation.names import OF_TASK, is_figure
from gkd_dist.evaluation.predictions import Distance, Prediction, Sample, read_predictions, write_predictions

SETTINGS = MetricSettings(rouge_stemmer=True, bleu_tokenize="13a", bootstrap=Bootstrap(num_resamples=100))


def said(task: str, texts: list[str], *references: str, subset: str | None = None) -> Prediction:
    samples = tuple(Sample(text, len(text), text.endswith("~")) for text in texts)
    return Prediction(task, 0, "p", references, subset, samples)  # type: ignore[arg-type]


def values(report: Report) -> dict[str, float]:
    return {name: figure.value for name, figure in report.figures.items()}


def test_word_problems_have_two_accuracies() -> None:
    found = values(compute([said("gsm8k", ["#### 4"], "#### 4"), said("gsm8k", ["5 eggs~"], "#### 5")], SETTINGS))
    assert found == {
        "accuracy": 0.5, "accuracy_last_number": 1.0, "mean_length_tokens": 6.5, "truncated_share": 0.5
    }  # fmt: skip


def test_tasks_are_averaged_without_weights() -> None:
    rows = [("a", "(A)"), ("b", "(A)"), ("b", "(B)"), ("b", "(B)"), ("b", "(B)")]
    report = compute([said("bbh", ["answer is (A)."], wanted, subset=task) for task, wanted in rows], SETTINGS)
    found = values(report)
    assert (found["exact_match_task_average"], found["exact_match"]) == (pytest.approx(0.625), pytest.approx(0.4))
    assert (found["exact_match/a"], found["exact_match/b"]) == (1.0, 0.25)


def test_the_most_probable_option_is_the_answer() -> None:
    row = Prediction("mmlu", 0, "p", (" B",), "law", (), (" A", " B"), (-2.0, -1.0))
    found = values(compute([row, replace(row, log_probs=(-1.0, -2.0))], SETTINGS))
    assert found == {"accuracy_task_average": 0.5, "accuracy": 0.5}


def test_several_samples_are_averaged_and_compared_with_each_other() -> None:
    report = compute([said("summarisation", ["a b c d", "x y z w"], "a b c d")], SETTINGS)
    assert report.figures["rouge2"].value == pytest.approx(50)
    assert report.figures["self_bleu"].value == 0
    assert report.figures["rouge2"].num_segments == 1
    assert report.signatures["rouge"] == "rouge-score F1 x 100, Porter stemmer"


def test_divergences_are_token_means() -> None:
    row = said("generation", ["a"])
    first = replace(row, on_samples=(Distance(3.0, 6.0, 0.3, 3),), on_reference=Distance(1.0, 1.0, 0.1, 2))
    second = replace(row, on_samples=(Distance(1.0, 2.0, 0.1, 1),))
    found = values(compute([first, second], SETTINGS))
    assert found["student_text/forward_kl_nats"] == 1.0
    assert found["student_text/reverse_kl_nats"] == 2.0
    assert found["student_text/jsd_nats"] == pytest.approx(0.1)
    assert found["reference_text/forward_kl_nats"] == 0.5


def test_predictions_come_back_from_their_file(tmp_path: Path) -> None:
    rows = [
        replace(said("bbh", ["gr\u00fcn\n", "x"], "r", subset="s"), on_samples=(Distance(1.0, 2.0, 3.0, 4),) * 2),
        replace(said("bbh", ["y"], "r"), on_reference=Distance(1.0, 2.0, 3.0, 4)),
        Prediction("bbh", 2, "p", (" A",), None, (), (" A", " B"), (-0.5, -1e-9)),
    ]
    write_predictions(rows, tmp_path / "new" / "p.jsonl")
    assert read_predictions(tmp_path / "new" / "p.jsonl") == rows


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("{", ":1: not a prediction"),
        ("[]", ":1: not a prediction"),
        ('{"task": "dance"}', "unknown task 'dance'"),
        ('{"task": "bbh", "index": 0, "prompt": "", "more": 1}', "unknown keys: more"),
        ('{"task": "bbh", "index": 0, "prompt": ""}', "neither samples nor options"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(DataError) as error:
        read_predictions(tmp_path / "p.jsonl")
    assert problem in str(error.value)


def test_tasks_are_not_mixed(tmp_path: Path) -> None:
    write_predictions([said("bbh", ["a"], "b"), said("gsm8k", ["a"], "b")], tmp_path / "p.jsonl")
    with pytest.raises(DataError, match="several tasks"):
        read_predictions(tmp_path / "p.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "none.jsonl")
    assert json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])["task"] == "bbh"


@pytest.mark.parametrize("task", ["summarisation", "translation", "gsm8k", "bbh", "generation"])
def test_figures_are_called_as_experiments_expect_them(task: TaskName) -> None:
    near = Distance(1.0, 1.0, 1.0, 2)
    rows = [
        replace(
            said(task, ["a 4", "b 5"], "a 4", subset=name),
            on_samples=(near, near),
            on_reference=near,
            rewards=(1.0, 0.0),
        )
        for name in ("one", "two")
    ]
    found = compute(rows, SETTINGS).figures
    assert set(OF_TASK[task]) <= found.keys()
    assert all(is_figure(name, task) for name in found)
    assert not is_figure("blue", task)
