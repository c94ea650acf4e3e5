"""Small rules of the doors."""

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gkd_dist.closing import closing
from gkd_dist.config.load import load_run_config
from gkd_dist.pipeline.job import Outcome
from gkd_dist.reporting import _fall, card_of, known, report, text_of, transport_name
from gkd_dist.runs.run_directory import RunDirectory


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (2.0, 1.0, "50%"),
        (2.0, 3.0, "-50%"),
        (0.0, 0.0, "-"),
        (9e-5, 1.0, "-"),
        (math.nan, 1.0, "-"),
        (1.0, math.nan, "-"),
    ],
)
def test_the_fall_is_a_share_of_what_is_large_enough_to_divide_by(before: float, after: float, text: str) -> None:
    assert _fall(before, after) == text


def test_what_the_transport_cannot_tell_is_not_available() -> None:
    assert (text_of(math.nan), text_of(0.12345)) == ("n/a", "0.123")
    assert known({"a": math.nan, "b": 0.5}) == {"a": None, "b": 0.5}


class Stuck:
    def close(self) -> None:
        raise OSError("the disk is full")


def test_closing_never_hides_what_went_wrong(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="the cause"), closing(Stuck()):
        raise ValueError("the cause")
    assert "the disk is full" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    with pytest.raises(OSError, match="the disk is full"), closing(Stuck()):
        pass


def test_figures_of_partial_transports_say_what_they_are() -> None:
    models = ("student.model=s", "teacher.model=t")
    assert transport_name(load_run_config("tiny", models)) == "hidden"
    topk = load_run_config("tiny", (*models, "teacher.transport=topk", "teacher.top_k=8"))
    assert transport_name(topk) == "topk 8 (bucket tail: divergences are lower bounds)"


def test_a_run_without_evaluations_is_finished_too(tmp_path: Path) -> None:
    config = load_run_config("tiny", ("student.model=s", "teacher.model=t", "evaluation.enabled=false"))
    job: Any = SimpleNamespace(blueprint=SimpleNamespace(config=config))
    directory = RunDirectory.create(tmp_path, "r")
    report(job, Outcome(None, None), directory, 12.34)
    assert directory.is_finished
    summary = json.loads(directory.summary.read_text())
    assert (summary["student"], summary["elapsed_s"]) == ("s", 12.3)
    assert not summary.keys() & {"before", "after"}


@pytest.mark.parametrize(
    ("overrides", "summary", "row"),
    [
        (("objective.student_fraction=0.25",), 0.25, "0.25"),
        (("objective.student_fraction=0", "objective.schedule={type: linear, final: 1}"), *["0 to 1 (linear)"] * 2),
        (
            ("objective.student_fraction=0.5", "objective.schedule={type: step, final: 1, at_step: 2}"),
            *["0.5 to 1 (step, at step 2)"] * 2,
        ),
    ],
)
def test_a_share_that_moves_is_told_from_its_beginning_to_its_end(
    tmp_path: Path, overrides: tuple[str, ...], summary: object, row: str
) -> None:
    """ImitKD begins at 0, which alone would be supervised distillation."""
    config = load_run_config("tiny", ("student.model=s", "teacher.model=t", *overrides))
    (tmp_path / "config.json").write_text("{}")
    job: Any = SimpleNamespace(
        blueprint=SimpleNamespace(config=config, student=tmp_path),
        rendered=SimpleNamespace(train=(), held_out=()),
        renderer=SimpleNamespace(uses_chat_template=False),
    )
    directory = RunDirectory.create(tmp_path, "r")
    report(job, Outcome(None, None), directory, 1.0)
    assert json.loads(directory.summary.read_text())["student_fraction"] == summary
    assert f"| student fraction (lambda) | {row} |" in card_of(job, Outcome(None, None), 7).splitlines()
