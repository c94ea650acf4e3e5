"""Step records as JSON Lines, as a live terminal line, as plain lines."""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from gkd_dist.interfaces import RecordSink
from gkd_dist.metrics.console import Narrator
from gkd_dist.metrics.sinks import JsonlSink, PlainLines, Record, StatusLine, StepSummary, terminal_sink

RECORD: Record = {
    "step": 2,
    "policy_version": 3,
    "max_steps": 20,
    "loss": 0.43214,
    "sampled_tokens_per_s": 110.4,
    "scored_tokens_per_s": 480.0,
    "trained_tokens_per_s": 95.0,
    "queue_depth": 4,
    "staleness": 1,
    "step_s": 13.5,
}
LINE = "step 3/20 | loss 0.4321 | tok/s sample 110 score 480 train 95 | queue 4 | staleness 1 | ETA 3m50s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_record_is_one_line_readable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    sink: RecordSink = JsonlSink(path)
    sink.write(RECORD)
    assert rows(path) == [RECORD]
    sink.write({"note": "a\nb"})
    assert rows(path) == [RECORD, {"note": "a\nb"}]
    sink.close()


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "m.jsonl") as sink:
        sink.write({"a": math.nan, "b": -math.inf, "c": 1.5, "d": float(np.float64("nan"))})
    assert (tmp_path / "m.jsonl").read_text() == '{"a": null, "b": null, "c": 1.5, "d": null}\n'


def test_numpy_scalars_are_written_as_numbers(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "m.jsonl") as sink:
        sink.write({"a": np.float32(0.5), "b": np.int64(3), "c": np.float32("inf")})  # type: ignore[dict-item]
    assert rows(tmp_path / "m.jsonl") == [{"a": 0.5, "b": 3, "c": None}]


def test_a_second_run_appends_and_a_cut_off_line_stays_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with JsonlSink(path) as sink:
        sink.write({"step": 0})
    with path.open("a") as file:
        file.write('{"step": 1, "lo')
    with JsonlSink(path) as sink:
        sink.write({"step": 1})
    lines = path.read_text().splitlines()
    assert lines == ['{"step": 0}', '{"step": 1, "lo', '{"step": 1}']


def test_a_closed_file_takes_no_more_records(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "m.jsonl")
    sink.close()
    with pytest.raises(ValueError, match="closed"):
        sink.write({"step": 0})


def test_the_summary_names_step_loss_rates_queue_staleness_and_time_left() -> None:
    assert StepSummary().line(RECORD) == LINE  # 17 steps of 13.5 s are 229.5 s


def test_the_summary_shows_the_bound_of_the_staleness_and_replicas_where_there_are_some() -> None:
    shown = StepSummary().line(RECORD | {"max_staleness": 2, "num_samplers": 3, "num_teachers": 1})
    assert " | queue 4 | staleness 1/2 | samplers 3 | teachers 1 | ETA " in shown
    assert " | staleness 0 | ETA " in StepSummary().line(RECORD | {"staleness": 0, "max_staleness": 0})


def test_time_left_follows_the_mean_of_the_last_ten_steps() -> None:
    summary = StepSummary()
    summary.line({"policy_version": 1, "max_steps": 100, "step_s": 10_000.0})
    for version in range(2, 12):
        line = summary.line({"policy_version": version, "max_steps": 100, "step_s": float(version)})
    # The slow first step has left the window: mean of 2..11 is 6.5 s, 89 steps remain.
    assert line == "step 11/100 | ETA 9m38s"
    assert summary.line({"policy_version": 100, "max_steps": 100, "step_s": 1.0}) == "step 100/100 | ETA 0s"


def test_long_runs_count_hours() -> None:
    line = StepSummary().line({"policy_version": 0, "max_steps": 1000, "step_s": 7.5})
    assert line.endswith("ETA 2h05m")


@pytest.mark.parametrize("step_s", [math.nan, math.inf])
def test_a_time_that_is_not_finite_gives_no_estimate(step_s: float) -> None:
    assert "ETA" not in StepSummary().line({"policy_version": 1, "max_steps": 9, "step_s": step_s})


def test_a_record_of_something_else_is_shown_as_it_is() -> None:
    assert StepSummary().line({"event": "evaluation", "forward_kl": 1.23456, "rows": 16}) == (
        "event evaluation | forward_kl 1.235 | rows 16"
    )


def test_plain_lines_have_no_control_characters() -> None:
    stream = io.StringIO()
    sink = terminal_sink(stream)
    assert isinstance(sink, PlainLines)
    sink.write(RECORD)
    sink.write(RECORD)
    sink.close()
    assert stream.getvalue() == f"{LINE}\n{LINE}\n"


@pytest.mark.parametrize("term", ["", "dumb"])
def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    monkeypatch.setenv("TERM", term)
    assert isinstance(terminal_sink(Terminal()), PlainLines)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_a_terminal_gets_one_line_that_is_rewritten(terminal: Terminal) -> None:
    sink = terminal_sink(terminal)
    assert isinstance(sink, StatusLine)
    for version in (3, 4, 5):
        sink.write(RECORD | {"policy_version": version})
    sink.close()
    sink.close()
    shown = terminal.getvalue()
    assert all(f"step {version}/20" in shown for version in (3, 4, 5))
    assert shown.count("\n") == 1
    assert shown.count("\x1b[2K") >= 3  # the line is erased before each rewrite


def test_other_output_appears_above_the_line_even_of_a_narrator_made_before_it(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    narrate = Narrator()
    sink = terminal_sink(terminal)
    sink.write(RECORD)
    narrate("saving the student")
    sink.write(RECORD)
    sink.close()
    shown = terminal.getvalue()
    before, _, after = shown.partition("saving the student")
    assert before.endswith("s] ") and "\x1b[2K" in before[-30:]  # the live line was erased to make room
    assert "step 3/20" in after.split("\n")[1]  # and drawn again below


def test_a_narrow_terminal_cuts_the_line(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    sink = StatusLine(terminal)
    sink.write(RECORD)
    sink.close()
    assert "step 3/20 | loss 0.4321" in terminal.getvalue()
    assert "staleness" not in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1


def test_brackets_are_text_and_not_markup(terminal: Terminal) -> None:
    sink = StatusLine(terminal)
    sink.write({"note": "[bold]x[/bold]"})
    sink.close()
    assert "[bold]x[/bold]" in terminal.getvalue()


def test_no_color_is_honoured(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    cyan = "\x1b[36m"
    sink = StatusLine(terminal)
    sink.write(RECORD)
    sink.close()
    assert cyan in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    sink = StatusLine(plain)
    sink.write(RECORD)
    sink.close()
    assert cyan not in plain.getvalue()
    assert "step 3/20" in plain.getvalue()
