"""What a report says of a run, whatever the run has written so far."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gkd_dist.cli import main
from gkd_dist.reports.charts import MAX_POINTS, Chart, charts
from gkd_dist.reports.numbers import duration, headline, text
from gkd_dist.reports.run_view import RunView, read_run
from gkd_dist.reports.settings import ABSENT, differences, flat
from gkd_dist.reports.timeline import timeline
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.events import EventLog, RunEvent
from gkd_dist.runs.run_directory import RunDirectory
from tests.run_directories import make_run, record_of, write_ledger, write_records, write_whole_run

NOW = datetime.now(UTC)


def view(path: Path) -> RunView:
    return read_run(RunDirectory(path))


def chart(found: list[Chart], id: str) -> Chart:
    return next(each for each in found if each.id == id)


def test_numbers_of_a_whole_run(tmp_path: Path) -> None:
    numbers = headline(view(write_whole_run(tmp_path)), NOW)
    assert numbers["state"] == "finished"
    assert numbers["train steps"] == "4 of 4"
    assert (numbers["loss, first step"], numbers["loss, last step"]) == ("2", "0.5")
    assert numbers["held out, forward KL (nats/token)"] == "1.25 \u2192 0.75"
    assert numbers["held out, reverse KL (nats/token)"] == "- \u2192 0.5"
    assert numbers["sampler, tokens/s"] == "25"  # mean of 10, 20, 30, 40 over steps of one length
    assert numbers["sequences trained on"] == "16 of the student, 16 fixed"
    assert (numbers["staleness, mean"], numbers["staleness, largest"]) == ("0.75", "2")
    assert numbers["replica restarts"] == "1"
    assert numbers["time sampling"] == "2 s"


def test_a_run_that_has_nothing_yet(tmp_path: Path) -> None:
    run = view(make_run(tmp_path).path)
    assert run.state == "not started"
    assert headline(run, NOW)["train steps"] == "0 of 4"
    assert charts([run]) == []
    assert timeline(run, 0, NOW) is None
    assert run.problems == []


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    with Attempt(directory):
        write_records(directory, [record_of(0)])
        run = view(directory.path)
        assert run.is_running
        assert run.state == "starting, attempt 1"
        assert headline(run, NOW)["train steps"] == "1 of 4"


def test_runs_that_failed_and_that_were_killed(tmp_path: Path) -> None:
    failed, killed = make_run(tmp_path), make_run(tmp_path)
    with pytest.raises(ValueError, match="broken"), Attempt(failed):
        raise ValueError("broken\nin two lines")
    assert view(failed.path).state == "ended: ValueError: broken"
    killed.attempts.write_text('{"attempt":1,"event":"started","at":"2026-01-01T00:00:00+00:00","host":"h","pid":1}\n')
    EventLog(killed.events, 1, clock=lambda: datetime(2026, 1, 1, 0, 2, tzinfo=UTC).timestamp()).write("stage")
    run = view(killed.path)
    assert run.state == "killed"
    assert run.spent_s(NOW) == 120  # until the last thing known of it
    found = timeline(run, 0, NOW)
    assert found is not None
    assert [mark.label for mark in found.marks if mark.kind == "attempt"] == [
        "attempt 1 begins",
        "attempt 1 ends: killed",
    ]


@pytest.mark.parametrize("file", ["config.yaml", "summary.json", "versions.json", "ledger.jsonl", "events.jsonl"])
def test_damaged_files_are_left_out_and_named(tmp_path: Path, file: str) -> None:
    path = write_whole_run(tmp_path)
    (path / file).write_bytes(b"\xff\xfe{broken: [\n}\nmore\n")
    run = view(path)
    assert headline(run, NOW)["loss, last step"] == "0.5"
    if file != "events.jsonl":  # its lines stand alone, and those that are none are passed over
        assert [problem.partition(":")[0] for problem in run.problems] == [file]


@pytest.mark.parametrize("file", ["metrics.jsonl", "samples.jsonl"])
def test_lines_that_cannot_be_read_are_counted_and_the_others_shown(tmp_path: Path, file: str) -> None:
    path = write_whole_run(tmp_path)
    with (path / file).open("ab") as damaged:
        damaged.write(b'\xff\x00\n{"a": 1}\n[]\n{"cut o')
    run = view(path)
    assert headline(run, NOW)["train steps"] == "4 of 4"
    assert run.problems == [f"{file}: 3 of its lines cannot be read"]


def test_of_a_step_that_was_trained_again_the_last_record_counts(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    again = [record_of(1, attempt=2, loss=7.0), record_of(2, attempt=2, loss=6.0)]
    write_records(directory, [record_of(0), record_of(1), *again])
    with directory.metrics.open("a") as file:
        file.write('{"step": 3, "lo')
    (loss,) = [each for each in charts([view(directory.path)]) if each.id == "loss"]
    assert loss.lines[0].y == [2.0, 7.0, 6.0]
    assert loss.marks == [(1.0, "attempt 2")]


def test_numbers_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    write_records(directory, [record_of(0), record_of(1, loss=None), record_of(2)])
    found = charts([view(directory.path)])
    assert chart(found, "loss").lines[0].y == [2.0, None, pytest.approx(2 / 3, rel=1e-5)]
    json.dumps([each.plain() for each in found], allow_nan=False)


def test_a_long_run_is_averaged_and_keeps_its_mean(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    write_records(directory, [record_of(step, loss=float(step % 7)) for step in range(4200)])
    loss = chart(charts([view(directory.path)]), "loss")
    (line,) = loss.lines
    assert len(line.y) == len(line.x) == len(line.smooth) == MAX_POINTS
    assert sum(value or 0.0 for value in line.y) / MAX_POINTS == pytest.approx(3.0)
    assert loss.note == "each point is the mean of 7 steps"


def test_the_histogram_counts_sequences_of_the_student_alone(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    write_records(directory, [record_of(0)])
    write_ledger(directory, [[0, 0, 3], [1]])
    found = chart(charts([view(directory.path)]), "staleness")
    assert found.categories == ["0", "1", "2", "3"]
    assert found.bars[0].y == [2.0, 1.0, 0.0, 1.0]


def test_roles_are_lines_of_one_run_and_runs_are_lines_of_each_role(tmp_path: Path) -> None:
    one, other = view(write_whole_run(tmp_path)), view(write_whole_run(tmp_path))
    assert [line.name for line in chart(charts([one]), "throughput").lines] == ["sampler", "teacher", "learner"]
    both = chart(charts([one, other]), "throughput-teacher")
    assert [(line.name, line.y[0]) for line in both.lines] == [("tiny-1", 20.0), ("tiny-2", 20.0)]


def test_an_objective_that_is_another_divergence_is_shown_once(tmp_path: Path) -> None:
    path = write_whole_run(tmp_path)
    summary = json.loads((path / "summary.json").read_text())
    for when in ("before", "after"):
        summary[when]["on_policy/objective_nats"] = summary[when]["on_policy/forward_kl_nats"]
    (path / "summary.json").write_text(json.dumps(summary))
    assert chart(charts([view(path)]), "divergence").categories == ["forward KL", "reverse KL"]
    assert "held out, objective (nats/token)" not in headline(view(path), NOW)


def test_lanes_end_with_their_attempt(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    at = datetime(2026, 1, 1, tzinfo=UTC).timestamp()

    def lines(number: int, begin: int, end: int) -> str:
        times = [datetime.fromtimestamp(at + each, UTC).isoformat() for each in (begin, end)]
        started = {"attempt": number, "event": "started", "at": times[0], "host": "h", "pid": 1}
        ended = {"attempt": number, "event": "ended", "at": times[1], "how": "stopped"}
        return json.dumps(started) + "\n" + json.dumps(ended) + "\n"

    directory.attempts.write_text(lines(1, 0, 100) + lines(2, 500, 600))
    for attempt, begin in ((1, 10), (2, 510)):
        log = EventLog(directory.events, attempt, clock=lambda begin=begin: at + begin)
        log.write("replica", role="sampler", slot=0, former="stale", state="healthy", reason="caught_up")
        log.write("replica", role="sampler", slot=1, former="draining", state="dead", reason="scaled")
    found = timeline(view(directory.path), 0, NOW)
    assert found is not None
    assert found.lanes[1].spans == []  # scaled away: nothing is missing there
    assert [(span.start, span.end, span.state) for span in found.lanes[0].spans] == [
        (10.0, 100.0, "healthy"),
        (510.0, 600.0, "healthy"),
    ]


def test_a_timeline_of_very_many_events_stays_small_and_says_so(tmp_path: Path) -> None:
    begin, num = datetime(2026, 11, 1, tzinfo=UTC), 20_000
    states = ("healthy", "suspect")
    events = [
        RunEvent(
            at=(begin + timedelta(seconds=number)).isoformat(),
            attempt=1,
            **(
                {"kind": "checkpoint", "step": number}
                if number % 4 == 0
                else {"kind": "replica", "role": "sampler", "slot": 0, "former": "", "state": states[number % 2]}
            ),  # type: ignore[arg-type]
        )
        for number in range(num)
    ]
    found = timeline(RunView("many", tmp_path, events=events), 0, begin)
    assert found is not None
    (lane,) = found.lanes
    num_drawn = len(lane.spans) + len(found.marks)
    assert num_drawn < 4000 and num_drawn + found.num_merged == num - 1  # the last one has no length
    assert lane.spans[0].start == 1 and lane.spans[-1].end == num - 1
    assert all(one.end <= other.start for one, other in zip(lane.spans, lane.spans[1:], strict=False))
    assert sum(span.end - span.start for span in lane.spans) == num - 2
    assert len(found.marks) <= 201  # of one kind: a mark and a gap between it and the next
    assert all(round(span["start"], 3) == span["start"] for span in found.plain()["lanes"][0]["spans"])
    assert len(json.dumps(found.plain())) < 150_000


def test_settings_that_differ(tmp_path: Path) -> None:
    one, other = (view(make_run(tmp_path, f"learner.batch_size={size}").path).config for size in (4, 8))
    assert differences([one, other]) == [("learner.batch_size", ["4", "8"])]
    assert differences([{"a": {"b": None}}, {"a": {}}]) == [("a.b", ["null", ABSENT]), ("a", [ABSENT, "{}"])]
    assert flat({"list": [1, "x"], "text": "on"}) == {"list": "[1, x]", "text": "'on'"}


@pytest.mark.parametrize(
    ("value", "words"), [(None, "-"), (float("nan"), "-"), (1234567, "1,234,567"), (0.75628, "0.7563")]
)
def test_numbers_as_text(value: float | None, words: str) -> None:
    assert text(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.254, "0.25 s"), (42.4, "42 s"), (231, "3 min 51 s"), (7501, "2 h 05 min")]
)
def test_durations_as_text(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_command_writes_the_page_beside_the_run_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_whole_run(tmp_path)
    assert main(["report", "latest", "--output-dir", str(tmp_path)]) == 0
    assert f"report: {path / 'report.html'}" in capsys.readouterr().out
    other = tmp_path / "folder" / "page.html"
    assert main(["report", str(path), "-o", str(other)]) == 0
    assert other.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "neither a run directory nor the name of one"),
        (["tiny-1", "latest"], "named twice"),
        (["tiny-1", "-o", "."], "is a folder"),
    ],
)
def test_bad_requests_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path)
    assert main(["report", *arguments, "--output-dir", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_smoothed_line_does_not_lag(tmp_path: Path) -> None:
    """Of a straight line it is that line, but for its ends; a mean of the past alone would lie beside it."""
    directory = make_run(tmp_path)
    write_records(directory, [record_of(step, loss=100.0 - step) for step in range(100)])
    (line,) = chart(charts([view(directory.path)]), "loss").lines
    middle = slice(30, 70)
    assert line.smooth[middle] == pytest.approx([value or 0.0 for value in line.y[middle]], abs=0.05)
