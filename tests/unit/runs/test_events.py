"""Events of a run: written one by one, read whatever a crash has left."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gkd_dist.runs import events
from gkd_dist.runs.events import EventLog, read_events


def log(path: Path, now: float = 1_700_000_000.0) -> EventLog:
    return EventLog(path / "events.jsonl", attempt=2, clock=lambda: now)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    log(tmp_path).write("scale", role="sampler", former="1", state="3", reason="request")
    log(tmp_path).write("replica", ago_s=60, role="teacher a", slot=1, former="healthy", state="dead", reason="oom")
    dead, scaled = read_events(tmp_path / "events.jsonl")
    assert (dead.role, dead.slot, dead.state, dead.attempt) == ("teacher a", 1, "dead", 2)
    assert dead.seconds == 1_700_000_000.0 - 60
    assert (scaled.former, scaled.state, scaled.seconds) == ("1", "3", 1_700_000_000.0)


def test_no_file_is_no_event(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == []


def test_a_line_that_a_crash_cut_off_hides_no_other(tmp_path: Path) -> None:
    log(tmp_path).write("checkpoint", state="written", step=4)
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes() + b'{"at":"2026-')
    log(tmp_path).write("checkpoint", state="written", step=8)
    assert [event.step for event in read_events(path)] == [4, 8]


def test_a_long_detail_is_cut_and_an_unknown_field_is_a_mistake(tmp_path: Path) -> None:
    log(tmp_path).write("learner", detail="x" * 10_000)
    assert len(read_events(tmp_path / "events.jsonl")[0].detail) == events.MAX_DETAIL
    with pytest.raises(ValidationError, match="replicas"):
        log(tmp_path).write("scale", replicas=3)


def test_a_disk_that_fails_is_said_once_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = EventLog(tmp_path / "none" / "events.jsonl", attempt=1)
    for _ in range(3):
        missing.write("stage", state="training")
    assert [record.message for record in caplog.records if "no longer written" in record.message].__len__() == 1


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_FILE_BYTES", 1000)
    one = log(tmp_path)
    for _ in range(100):
        one.write("replica", role="sampler", slot=0, former="healthy", state="suspect", reason="probe")
    assert 0 < (tmp_path / "events.jsonl").stat().st_size <= 1000
