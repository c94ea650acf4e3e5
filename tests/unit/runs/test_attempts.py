"""Every start has a number and epochs that grow, and says how it ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from gkd_dist.errors import EngineError, RunError, StoppedError
from gkd_dist.runs.attempts import Attempt, read_attempts
from gkd_dist.runs.lock import holder_of
from gkd_dist.runs.run_directory import RunDirectory

BEGIN = """
import sys
from pathlib import Path
from gkd_dist.errors import RunError
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.run_directory import RunDirectory
try:
    with Attempt(RunDirectory(Path(sys.argv[1]))) as attempt:
        print(attempt.next_epoch(), flush=True)
        sys.stdin.read()
except RunError as error:
    print(error, flush=True)
"""


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path, "r")


def test_attempts_count_up_and_say_how_they_ended(directory: RunDirectory) -> None:
    with Attempt(directory) as attempt:
        assert attempt.number == 1
    for error in (StoppedError("SIGTERM"), KeyboardInterrupt(), EngineError("the learner died\nmore")):
        with pytest.raises(type(error)), Attempt(directory):
            raise error
    records = read_attempts(directory.attempts)
    assert [record.number for record in records] == [1, 2, 3, 4]
    assert [record.how for record in records] == ["done", "stopped", "interrupted", "EngineError: the learner died"]
    assert all(record.started_at <= (record.ended_at or "") for record in records)


LEAVE = """
import sys
from pathlib import Path
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.stop_signals import leave
attempt = Attempt(RunDirectory(Path(sys.argv[1])))
leave(130, attempt.break_off)
"""


def test_an_attempt_that_leaves_at_once_says_so_first(directory: RunDirectory) -> None:
    code = subprocess.run([sys.executable, "-c", LEAVE, str(directory.path)], check=False, timeout=60).returncode
    (record,) = read_attempts(directory.attempts)
    assert (code, record.how, record.exit_code) == (130, "interrupted", 130)
    assert record.ended_at is not None
    assert holder_of(directory.lock) is None


@pytest.mark.fault(18)
def test_an_attempt_holds_the_lock_of_its_directory(directory: RunDirectory) -> None:
    with Attempt(directory) as attempt:
        holder = holder_of(directory.lock)
        assert holder is not None and holder.run_epoch.startswith("000001-0001-")
        with pytest.raises(RunError, match="in use"):
            Attempt(directory)
    assert holder_of(directory.lock) is None
    assert attempt.number == 1
    assert len(read_attempts(directory.attempts)) == 1  # the refused start was none


def test_epochs_grow_within_an_attempt_and_from_one_to_the_next(directory: RunDirectory) -> None:
    epochs = []
    for _ in range(11):
        with Attempt(directory) as attempt:
            epochs += [attempt.next_epoch() for _ in range(11)]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 121


def test_a_killed_attempt_has_no_end_and_its_number_is_never_given_again(directory: RunDirectory) -> None:
    with Attempt(directory) as attempt:
        left_behind = directory.lock.read_text()
    directory.attempts.write_text(directory.attempts.read_text().splitlines()[0][:20])  # cut off in the first line
    directory.lock.write_text(left_behind)
    assert read_attempts(directory.attempts) == []
    with Attempt(directory) as second:
        assert second.number == attempt.number + 1
        (record,) = read_attempts(directory.attempts)
        assert (record.number, record.how, record.ended_at) == (2, None, None)
    assert read_attempts(directory.attempts)[0].how == "done"


@pytest.mark.fault(31)
def test_a_full_disk_does_not_hide_how_a_run_ended(directory: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EngineError, match="the learner died"), Attempt(directory):
        directory.attempts.unlink()
        directory.attempts.symlink_to("/dev/full")
        raise EngineError("the learner died")
    assert "the end of attempt 1 could not be written: [Errno 28]" in caplog.text
    assert holder_of(directory.lock) is None


def test_there_may_be_no_attempts_yet(directory: RunDirectory) -> None:
    assert read_attempts(directory.attempts) == []


@pytest.mark.fault(17)
@pytest.mark.fault(18)
def test_of_two_processes_that_start_together_one_works_and_after_its_death_another_goes_on(
    directory: RunDirectory,
) -> None:
    command = [sys.executable, "-c", BEGIN, str(directory.path)]
    both = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(2)]
    try:
        said = [process.stdout.readline().strip() for process in both if process.stdout is not None]
        (winner,) = [index for index, line in enumerate(said) if line.startswith("000001-0002-")]
        assert f"in use by process {both[winner].pid}" in said[1 - winner]
        both[winner].kill()
        both[winner].wait(timeout=20)
    finally:
        for process in both:
            process.kill()
            process.communicate(timeout=20)
    with Attempt(directory) as attempt:
        assert attempt.number == 2
        assert attempt.next_epoch() > said[winner]
    assert [record.how for record in read_attempts(directory.attempts)] == [None, "done"]
