"""Moments are told in the time zone of this machine, with its name, wherever people read them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gkd_dist.reports.page import page
from gkd_dist.reports.run_view import read_run
from gkd_dist.runs.lock import Holder
from gkd_dist.runs.moment import moment
from gkd_dist.runs.run_directory import RunDirectory
from tests.run_directories import write_whole_run

STORED = "2026-07-01T22:30:00+00:00"
READ = "2026-07-02 04:15:00 XYZ"


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """5 h 45 min ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-05:45")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(("stored", "read"), [(STORED, READ), ("then", "then"), ("", "")])
def test_a_moment_is_read_in_the_zone_of_this_machine(stored: str, read: str) -> None:
    assert moment(stored) == read


def test_a_run_in_use_says_since_when() -> None:
    assert str(Holder(run_epoch="1-1-a", host="h", pid=7, started_at=STORED)) == f"process 7 on h, started {READ}"


def test_a_report_says_when_it_was_made_and_when_attempts_were(tmp_path: Path) -> None:
    path = write_whole_run(tmp_path)
    (path / "attempts.jsonl").write_text(
        f'{{"attempt":1,"event":"started","at":"{STORED}","host":"h","pid":1}}\n'
        f'{{"attempt":1,"event":"ended","at":"2026-07-01T23:30:00+00:00","how":"finished","exit_code":0}}\n'
    )
    text = page([read_run(RunDirectory(path))], datetime(2026, 7, 2, tzinfo=UTC))
    assert "Made 2026-07-02 05:45:00 XYZ by gkd" in text
    assert f'<td class="when">{READ}</td><td class="when">2026-07-02 05:15:00 XYZ</td>' in text
