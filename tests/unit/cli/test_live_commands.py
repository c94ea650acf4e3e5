"""`gkd scale`, `gkd status` and `gkd explain` on run directories, with and without a job behind them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gkd_dist.cli import main
from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.errors import StoppedError
from gkd_dist.operations.subject import RunSubject
from gkd_dist.operations.watching import line_of
from gkd_dist.replay.ledger import DroppedPrompt, Ledger, StepEntry, TrainedSequence
from gkd_dist.runs.attempts import Attempt, read_attempts
from gkd_dist.runs.control import Panel, Target
from gkd_dist.runs.moment import moment
from gkd_dist.runs.run_directory import COMPLETE, RunDirectory
from gkd_dist.runs.status import ProcessStatus, RoleStatus, SlotStatus, Status
from gkd_dist.types import SampleId, Source, VersionRange

SETTINGS = ("student.model=s", "teacher.model=t", "cluster.mode=ray", "sampler.max_replicas=4", "learner.max_steps=60")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    made = RunDirectory.create(Path("runs"), "tiny")
    made.write_config(dump_run_config(load_run_config("tiny", SETTINGS)))
    (made.checkpoints / "step-40").mkdir(parents=True)
    (made.checkpoints / "step-40" / COMPLETE).touch()
    return made


@contextmanager
def job(directory: RunDirectory, *, obeys: bool = True) -> Iterator[dict[str, int]]:
    """A controller that answers, in a thread of this process; its targets."""
    targets, over = {"samplers": 1, "teachers.teacher": 1}, threading.Event()

    def role(name: str) -> RoleStatus:
        num_slots = targets[name] if obeys else 1
        slots = tuple(SlotStatus(slot=number, state="healthy", pid=7, node="n") for number in range(num_slots))
        if num_slots < targets[name]:
            slots += tuple(
                SlotStatus(slot=number, state="restarting", problem="the cluster has no room for another")
                for number in range(num_slots, targets[name])
            )
        return RoleStatus(target=targets[name], slots=slots)

    def apply(target: Target) -> None:
        targets.update(target.roles)

    def status() -> Status:
        return Status(
            at="2026-03-01T13:05:09+00:00", node="m", journal=ProcessStatus(pid=6, node="m"),
            learners=(ProcessStatus(pid=8, node="n"), ProcessStatus(pid=9, node="m")),
            attempt=1, pid=5, host="h", state="training", step=41, max_steps=60, samplers=role("samplers"),
            teachers={"teacher": role("teachers.teacher")}, queue_depth=3, staleness=1, max_staleness=2,
            last_checkpoint=40, tokens_per_s={"sampler": 110.4, "learner": 95},
        )  # fmt: skip

    def serve() -> None:
        while not over.wait(0.01):
            asyncio.run(panel.turn())

    with Attempt(directory):
        panel = Panel(directory, apply=apply, status=status)
        asyncio.run(panel.turn())
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield targets
        finally:
            over.set()
            thread.join()


def test_scale_asks_and_waits_until_the_replicas_serve(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with job(directory) as targets:
        assert main(["scale", "tiny-1", "--samplers", "3", "--teachers", "2"]) == 0
        assert targets == {"samplers": 3, "teachers.teacher": 2}
        first, second, last = capsys.readouterr().out.splitlines()
        assert (first, second) == ("tiny-1: samplers 1 -> 3", "tiny-1: teachers.teacher 1 -> 2")
        assert last.startswith("all of them serve, after ")
        assert main(["scale", "latest", "--teacher", "teacher=1", "--timeout", "30"]) == 0
        assert targets == {"samplers": 3, "teachers.teacher": 1}


def test_scale_can_leave_at_once(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with job(directory, obeys=False):
        assert main(["scale", str(directory.path), "--samplers", "2", "--no-wait"]) == 0
    out = capsys.readouterr().out
    assert out == f"tiny-1: samplers 1 -> 2\nasked; see `gkd status {directory.path}`\n"


def test_scale_says_that_it_did_not_converge(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with job(directory, obeys=False):
        assert main(["scale", "tiny-1", "--samplers", "2", "--timeout", "1"]) == 70
    assert capsys.readouterr().err == (
        "error: not there after 1 s: samplers 1 of 2 (slot 1 restarting: the cluster has no room for another); the run "
        "goes on trying\n"
    )


def test_what_a_replica_waits_for_is_seen_by_who_asks(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with job(directory, obeys=False):
        assert main(["scale", "tiny-1", "--samplers", "2", "--timeout", "1"]) == 70
        assert "tiny-1: samplers slot 1 restarting: the cluster has no room for another\n" in capsys.readouterr().out
        assert main(["status", "tiny-1"]) == 0
    assert "  slot 1: restarting, 0 restart(s)\n    the cluster has no room for another\n" in capsys.readouterr().out


@pytest.mark.fault(39)
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--samplers", "5"], "error: sampler: 5 replicas; this run allows between 1 and 4"),
        (["--teacher", "maths=2"], "error: no teacher is called maths; this run has teacher"),
        ([], "error: nothing to scale"),
        (["--teacher", "teacher"], "'teacher' is not NAME=N"),
        (["--teacher", "teacher=-1"], "'teacher=-1' is not NAME=N"),
        (["--teacher", "teacher=1", "--teachers", "2"], "give one of them"),
        (["--samplers", "many"], "valid integer"),
    ],
)
def test_scale_refuses_bad_numbers_with_2(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    with job(directory) as targets:
        assert main(["scale", "tiny-1", *args]) == 2
        assert targets == {"samplers": 1, "teachers.teacher": 1}
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["scale", "tiny-1", "--samplers", "2"], "this run is not running"),
        (["scale", "tiny-7", "--samplers", "2"], "tiny-7: neither a run directory nor the name"),
        (["status", "tiny-7"], "there are latest, tiny-1"),
        (["explain", "tiny-7", "1"], "neither a run directory"),
        (["explain", "tiny-1", "1"], "no step 1; it has no step yet"),
        (["status", ""], "no run is named; give a run directory"),
        (["status", "x" * 300], "File name too long"),
    ],
)
def test_what_cannot_be_done_is_said_with_2_and_without_a_traceback(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and message in err and "Traceback" not in err


def test_a_step_below_0_is_a_number_and_not_an_option(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "tiny-1", "-1"]) == 2
    assert "Invalid value for 'STEP'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("ledger.jsonl", ["explain", "tiny-1", "1"]),
        ("attempts.jsonl", ["status", "tiny-1"]),
        ("lock", ["scale", "tiny-1", "--samplers", "2"]),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_named(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str], file: str, command: list[str]
) -> None:
    (directory.path / file).mkdir()
    assert main(command) == 2
    assert capsys.readouterr().err == f"error: {directory.path / file}: Is a directory\n"


def test_a_finished_run_cannot_be_scaled(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    directory.write_summary({})
    assert main(["scale", "tiny-1", "--samplers", "2"]) == 2
    assert "this run is finished; `gkd run` starts another one" in capsys.readouterr().err


def test_status_of_a_running_job(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with job(directory):
        assert main(["status", "latest"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"tiny-1: training, step 41/60, attempt 1 since {began(directory)}",
            "controller: pid 5 node m, host h",
            "learner rank 0: pid 8 node n",
            "learner rank 1: pid 9 node m",
            "journal: pid 6 node m",
            "samplers: 1 of 1 serve",
            "  slot 0: healthy, 0 restart(s), pid 7 node n",
            "teacher teacher: 1 of 1 serve",
            "  slot 0: healthy, 0 restart(s), pid 7 node n",
            "queue 3 | staleness 1/2 | tok/s sampler 110 learner 95",
            f"last checkpoint: step 40; run directory {directory.path}",
        ]
        assert main(["status", "latest", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
    assert (shown["run"], shown["is_running"], shown["is_finished"]) == ("tiny-1", True, False)
    assert shown["last_checkpoint"] == shown["status"]["last_checkpoint"] == 40
    assert shown["attempts"][0]["how"] is None
    assert Status.model_validate_json(json.dumps(shown["status"])).samplers.num_serving == 1
    assert [each["pid"] for each in shown["status"]["learners"]] == [8, 9]
    assert (shown["status"]["journal"]["pid"], shown["status"]["node"], shown["status"]["reward"]) == (6, "m", None)
    for at in (shown["status"]["at"], shown["attempts"][0]["started_at"]):
        assert datetime.fromisoformat(at).utcoffset() == timedelta(0)


def began(directory: RunDirectory) -> str:
    return moment(read_attempts(directory.attempts)[0].started_at)


def test_replicas_that_wait_alike_are_one_line(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with job(directory, obeys=False):
        assert main(["scale", "tiny-1", "--teachers", "40", "--timeout", "1"]) == 70
        scaled = capsys.readouterr()
        assert main(["status", "tiny-1"]) == 0
        seen = capsys.readouterr().out
    room = "the cluster has no room for another"
    assert scaled.out.splitlines()[1:] == [f"tiny-1: teachers.teacher slots 1-39 (39) restarting: {room}"]
    assert f"1 of 40 (slots 1-39 (39) restarting: {room});" in scaled.err
    assert f" node n\n  slots 1-39 (39): restarting, 0 restart(s)\n    {room}\n" in seen


def test_status_of_a_run_that_has_ended(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "tiny-1"]) == 0
    assert capsys.readouterr().out.startswith("tiny-1: not running\nlast checkpoint: step 40")
    with pytest.raises(StoppedError), job(directory):
        raise StoppedError
    assert main(["status", "tiny-1"]) == 0
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("tiny-1: not running; attempt 1 began ") and first.endswith(": stopped")
    assert f"began {began(directory)} and ended " in first
    assert second == "last seen at step 41/60"
    directory.write_summary(
        {"steps": 60, "before": {"forward_kl_nats": 1.94, "reward": None}, "after": {"forward_kl_nats": 0.642}}
    )
    assert main(["status", "tiny-1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny-1: finished"
    assert lines[1].startswith("60 steps in ") and lines[1].endswith(" s of 1 attempt(s)")
    assert lines[2] == f"student: {directory.final}"
    cells = [[cell.strip() for cell in line.strip("\u2502").split("\u2502")] for line in lines if "\u2502" in line]
    assert cells == [["forward_kl_nats", "1.940", "0.642"], ["reward", "n/a", "n/a"]]
    assert main(["status", "tiny-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["steps"] == 60


def test_status_says_how_old_it_is(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with job(directory):
        assert main(["status", "tiny-1"]) == 0
    assert "no sign of life" not in capsys.readouterr().out
    with subprocess.Popen([sys.executable, "-c", HOLD, str(directory.path)], stdin=-1, stdout=-1) as run:
        try:
            assert run.stdout is not None and run.stdout.readline() == b"held\n"
            os.utime(directory.status, (time.time() - 44,) * 2)
            assert main(["status", "tiny-1"]) == 0
            lines = capsys.readouterr().out.splitlines()
            assert lines[0].startswith("tiny-1: training, step 41/60")
            told = f"no sign of life for 40 s; the process {run.pid} does not answer"
            assert lines[1] == f"{told}; what follows was so then"
            assert told in line_of(RunSubject(directory))
            os.kill(run.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, run.pid, os.WSTOPPED)
            assert main(["status", "tiny-1"]) == 0
            assert f"; the process {run.pid} is stopped; what" in capsys.readouterr().out
            assert main(["status", "tiny-1", "--json"]) == 0
            assert 40 < json.loads(capsys.readouterr().out)["silent_s"] < 100
        finally:
            run.kill()


HOLD = """
import sys
from pathlib import Path
from gkd_dist.runs.lock import Holder, RunLock
import os, socket
lock = RunLock(Path(sys.argv[1]) / "lock")
lock.write(Holder(run_epoch="000001-0001-a", host=socket.gethostname(), pid=os.getpid(), started_at="then"))
print("held", flush=True)
sys.stdin.read()
"""


def test_status_of_a_killed_run_is_of_its_newest_step(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with job(directory):
        pass  # step 41, attempt 1
    record = {"policy_version": 43, "attempt": 1}
    directory.metrics.write_text(json.dumps(record) + "\n" + '{"policy_ver')
    assert main(["status", "tiny-1"]) == 0
    assert "last seen at step 43/60" in capsys.readouterr().out
    ledger = Ledger(directory.ledger)
    ledger.append(StepEntry(43, 0, 0.5, 0, ()))
    ledger.close()
    assert main(["status", "tiny-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["newest_step"] == 44
    directory.metrics.write_text(json.dumps(record | {"attempt": 2}) + "\n")
    directory.ledger.write_bytes(directory.ledger.read_bytes().replace(b'"attempt":0', b'"attempt":4'))
    assert main(["status", "tiny-1"]) == 0
    assert "last seen at step 41/60" in capsys.readouterr().out, "the others are of another attempt"
    directory.status.unlink()
    assert main(["status", "tiny-1"]) == 0
    assert "last seen at step 44\n" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "\0" * 40, '{"attempt": "one"}'])
def test_a_damaged_status_takes_neither_status_nor_scale_down(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with Attempt(directory):
        directory.status.parent.mkdir(exist_ok=True)
        directory.status.write_text(text)
        assert main(["status", "tiny-1"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("tiny-1: running since ")
        assert lines[1].startswith("note: what it said of itself cannot be read") and "status.json" in lines[1]
        assert lines[-1].startswith("last checkpoint: step 40")
        assert main(["scale", "tiny-1", "--samplers", "2", "--no-wait"]) == 0
        assert "samplers ? -> 2" in capsys.readouterr().out
    assert main(["status", "tiny-1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["status"] is None and "cannot be read" in shown["status_problem"] and shown["last_checkpoint"] == 40
    assert main(["status", "tiny-1", "--watch"]) == 0


def test_status_while_engines_start_names_the_process(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with Attempt(directory):
        assert main(["status", "tiny-1"]) == 0
        assert f", pid {os.getpid()})" in capsys.readouterr().out
        assert main(["status", "tiny-1"]) == 0
    assert capsys.readouterr().out.startswith(f"tiny-1: starting since {began(directory)} (")


def test_a_summary_of_something_else_is_named(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("{", "[]"):
        directory.summary.write_text(text)
        assert main(["status", "tiny-1"]) == 2
        assert capsys.readouterr().err.startswith(f"error: {directory.summary}: no")


@pytest.mark.parametrize("columns", ["20", "80"])
def test_explain_cuts_no_id_however_long_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    """For another program, and on a terminal that is too narrow."""
    name = "distil-" + 12 * "long-"
    made = RunDirectory.create(tmp_path, name)
    made.write_config(dump_run_config(load_run_config("tiny", SETTINGS)))
    ids = [SampleId(made.name, 123456, repeat) for repeat in range(2)]
    sequences = tuple(
        TrainedSequence(each, 0, Source.STUDENT, VersionRange(3, 4), ("a", "b"), use=1, staleness=1) for each in ids
    )
    ledger = Ledger(made.ledger)
    ledger.append(StepEntry(4, 0, 0.5, 2, sequences))
    ledger.close()
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["explain", str(made.path), "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if "123456" in line] == [str(each) for each in ids]
    assert {len(line) for line in lines[2:]} == {len(lines[2])}, "one line for each"


def test_explain_names_every_sequence_of_a_step(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    student = TrainedSequence(
        SampleId("tiny-1", 17, 1), 2, Source.STUDENT, VersionRange(3, 4), ("a", "b"), use=2, staleness=1
    )
    fixed = TrainedSequence(SampleId("tiny-1", 18), 0, Source.GROUND_TRUTH, None, ("a",), use=1, staleness=0)
    ledger = Ledger(directory.ledger)
    ledger.append(StepEntry(3, 0, 0.5, 0, (fixed,)))
    ledger.append(DroppedPrompt(4, SampleId("tiny-1", 9), "too long"))
    ledger.append(StepEntry(4, 1, 0.25, 1, (student, fixed)))
    ledger.close()
    assert main(["explain", "tiny-1", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "tiny-1, step 4: 2 sequences, lambda 0.25, 1 from the student asked for; the run had been resumed 1 time(s)"
    )
    cells = [[cell.strip() for cell in line.strip("\u2502").split("\u2502")] for line in lines if "\u2502" in line]
    assert cells == [
        ["tiny-1/17/1", "student", "2", "3-4", "1", "a b", "2"],
        ["tiny-1/18/0", "ground_truth", "0", "-", "0", "a", "1"],
    ]
    assert lines[-1] == "given up: tiny-1/9/0 (too long)"
    assert main(["explain", "tiny-1", "4", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["sequences"][0]["versions"] == {"oldest": 3, "newest": 4}
    assert shown["dropped"][0]["reason"] == "too long"
    assert main(["explain", "tiny-1", "5"]) == 2
    assert "no step 5; it has steps 3 to 4" in capsys.readouterr().err
    directory.ledger.write_bytes(b"damaged\n" + directory.ledger.read_bytes())
    assert main(["explain", "tiny-1", "4"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:-1] == lines
    assert told[-1] == "note: line 1 of the ledger cannot be read; what was written there is not known"
    assert main(["explain", "tiny-1", "5"]) == 2
    told = capsys.readouterr().err
    assert "no step 5; it has steps 3 to 4; line 1 of the ledger cannot be read" in told and "resume" not in told


def test_explain_says_which_steps_the_ledger_has_twice_or_has_lost(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(directory.ledger)
    for step, index in ((0, 1), (1, 2), (3, 3), (1, 2)):
        pair = TrainedSequence(SampleId("tiny-1", index), 0, Source.GROUND_TRUTH, None, ("a",), use=1, staleness=0)
        ledger.append(StepEntry(step, 0, 0.5, 0, (pair,)))
    ledger.close()
    assert main(["explain", "tiny-1", "1"]) == 0
    told = capsys.readouterr().out
    assert told.count("tiny-1/2/0") == 2 and "note: the ledger has this step 2 times (lines 2, 4)" in told
    assert main(["explain", "tiny-1", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"] == [2, 4]
    assert main(["explain", "tiny-1", "2"]) == 2
    assert "no step 2; it has steps 0 to 3, and this one is lost" in capsys.readouterr().err
    assert main(["explain", "tiny-1", "0"]) == 0
    assert "note:" not in capsys.readouterr().out
