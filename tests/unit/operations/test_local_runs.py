"""`gkd stop`, `logs`, `list` and `status --watch` on run directories of this machine."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gkd_dist.cli import main
from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.operations.subject import RunSubject, find_subject, known_address
from gkd_dist.operations.watching import view
from gkd_dist.runs.documents import write_document
from gkd_dist.runs.lock import Holder, holder_of
from gkd_dist.runs.run_directory import COMPLETE, RunDirectory
from gkd_dist.runs.status import RoleStatus, SlotStatus, Status

LIMIT_S = 30.0
PROGRAM = """
import signal, sys, time
from pathlib import Path
from gkd_dist.errors import EngineError, StoppedError
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.run_directory import RunDirectory

def receive(number, frame):
    raise {"stops": StoppedError, "breaks": EngineError}[sys.argv[2]]("asked")

with Attempt(RunDirectory(Path(sys.argv[1]))):
    signal.signal(signal.SIGTERM, signal.SIG_DFL if sys.argv[2] == "dies" else receive)
    print("ready", flush=True)
    time.sleep(60)
"""
STOPPING = """
import asyncio, sys
from pathlib import Path
from gkd_dist.errors import GkdError
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.stop_signals import StopSignals

async def main():
    with StopSignals(lambda text: print(text, flush=True)) as stop:
        stop.begin()
        print("ready", flush=True)
        await stop.event.wait()
        await asyncio.to_thread(sys.stdin.readline)  # its last step
        raise stop.error(sys.argv[1])

try:
    with Attempt(RunDirectory(Path(sys.argv[1]))):
        asyncio.run(main())
except GkdError as error:
    sys.exit(error.exit_code)
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    made = RunDirectory.create(Path("runs"), "tiny")
    made.write_config(dump_run_config(load_run_config("tiny", ["student.model=s", "teacher.model=t"])))
    (made.checkpoints / "step-4").mkdir(parents=True)
    (made.checkpoints / "step-4" / COMPLETE).touch()
    records = [
        {"step": step, "policy_version": step + 1, "max_steps": 10, "loss": 1.5 - step / 4, "step_s": 2.0}
        | {"sample_s": 1.5, "score_s": 0.2, "learn_s": 0.3, "publish_s": 0.1, "attempt": 1}
        for step in range(4)
    ]
    made.metrics.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 4, "po')
    return made


@pytest.fixture
def process(directory: RunDirectory, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    how = getattr(request, "param", "stops")
    running = subprocess.Popen([sys.executable, "-c", PROGRAM, str(directory.path), how], stdout=-1, text=True)
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    yield running
    running.kill()
    running.communicate(timeout=LIMIT_S)


def status(**changes: object) -> Status:
    slots = (SlotStatus(slot=0, state="healthy"), SlotStatus(slot=1, state="restarting", problem="it was [killed]"))
    moment = Status(
        attempt=1, pid=1, host="h", state="training", step=4, max_steps=10, samplers=RoleStatus(target=2, slots=slots),
        teachers={"teacher": RoleStatus(target=1, slots=slots[:1])}, queue_depth=3, staleness=1, max_staleness=2,
        last_checkpoint=4, tokens_per_s={"sampler": 110.4, "teacher": 480.0, "learner": 95.0},
    )  # fmt: skip
    return moment.model_copy(update=changes)


@pytest.mark.parametrize(
    ("process", "code", "how", "number"),
    [("stops", 0, "stopped", 75), ("breaks", 70, "EngineError: asked", 70), ("dies", 70, "killed", None)],
    indirect=["process"],
)
def test_stop_waits_and_says_how_it_ended(
    process: subprocess.Popen[str],
    code: int,
    how: str,
    number: int | None,
    directory: RunDirectory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["stop", "tiny-1", "--timeout", "30"]) == code
    said = capsys.readouterr().out
    ending = "no exit code" if number is None else f"exit code {number}"
    assert said == f"tiny-1: {how}, {ending}, last checkpoint: step 4\n"
    assert holder_of(directory.lock) is None
    assert main(["stop", "latest"]) == 0
    assert capsys.readouterr().out == f"tiny-1: already ended ({how}, {ending}), last checkpoint: step 4\n"
    assert main(["stop", "latest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exit_code"] == number


def test_stop_of_a_run_that_was_never_started_is_refused(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stop", "latest"]) == 2
    assert "this run was never started" in capsys.readouterr().err


def test_stop_of_a_finished_run_is_done(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    directory.write_summary({})
    assert main(["stop", "tiny-1"]) == 0
    assert capsys.readouterr().out == "tiny-1: already ended (finished), last checkpoint: step 4\n"
    assert main(["stop", "tiny-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exit_code"] == 0


@pytest.mark.fault(33)
def test_stop_waits_for_a_run_that_is_stopping_already(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where an operator stops the job of a cluster, and then ends its pods, each of which asks for a checkpoint."""
    command = [sys.executable, "-c", STOPPING, str(directory.path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as running:
        assert running.stdout is not None and running.stdin is not None and running.stdout.readline() == "ready\n"
        running.terminate()
        assert running.stdout.readline().startswith("SIGTERM: finishing")
        assert main(["stop", "latest", "--timeout", "0.5"]) == 70
        assert "it still may" in capsys.readouterr().err
        stopping = threading.Timer(0.2, lambda: running.communicate("go on\n", timeout=LIMIT_S))
        stopping.start()
        assert main(["stop", "latest", "--timeout", "30"]) == 0
        stopping.join(LIMIT_S)
    assert running.returncode == 75
    assert capsys.readouterr().out == "tiny-1: stopped, exit code 75, last checkpoint: step 4\n"


def test_stop_all_stops_every_run_of_this_host_and_no_other(
    directory: RunDirectory, process: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = RunDirectory.create(Path("runs"), "other")
    other.write_config("name: other\n")
    away = RunDirectory.create(Path("runs"), "away")
    away.lock.write_text(Holder(run_epoch="1-1-a", host="elsewhere", pid=1, started_at="then").model_dump_json())
    command = [sys.executable, "-c", PROGRAM, str(other.path), "stops"]
    with subprocess.Popen(command, stdout=-1, text=True) as second:
        assert second.stdout is not None and second.stdout.readline() == "ready\n"
        assert main(["stop", "--all", "--timeout", "30"]) == 0
    told = capsys.readouterr()
    said = told.out.splitlines()
    assert said == ["other-1: stopped, exit code 75", "tiny-1: stopped, exit code 75, last checkpoint: step 4"]
    assert told.err.startswith("away-1: runs on elsewhere, which a signal from here does not reach")
    assert holder_of(directory.lock) is None and holder_of(other.lock) is None and holder_of(away.lock) is not None
    assert main(["stop", "--all"]) == 0
    assert capsys.readouterr().out == "no run below runs is running on this host\n"


@pytest.mark.parametrize("process", ["breaks"], indirect=True)
def test_stop_all_says_which_run_did_not_end_well(
    process: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stop", "--all", "--json", "--timeout", "30"]) == 70
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["run"], run["exit_code"], run["last_checkpoint"]) == ("tiny-1", 70, 4)


@pytest.mark.parametrize("words", [["stop"], ["stop", "a", "--all"], ["stop", "a", "--all", "--address", "http://h:1"]])
def test_stop_is_told_what_to_stop_once(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "give" in capsys.readouterr().err


def test_logs_are_the_steps_and_follow_a_run_to_its_end(
    directory: RunDirectory, process: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", "latest"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[3] == "step 4/10 | loss 0.75 | ETA 12s"

    def go_on() -> None:
        with directory.metrics.open("a") as file:
            file.write('licy_version": 5, "max_steps": 10, "loss": 0.25}\n')
        assert main(["stop", "latest"]) == 0

    other = threading.Timer(0.1, go_on)
    other.start()
    assert main(["logs", "latest", "-f"]) == 0
    other.join(LIMIT_S)
    assert "step 5/10 | loss 0.25" in capsys.readouterr().out


def test_list_has_every_run_once(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    other = RunDirectory.create(Path("runs"), "other")
    other.write_config("name: other\n")
    other.write_summary({"steps": 3})
    os.utime(directory.path, (1, 1))
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(run["run"], run["state"], run["last_checkpoint"]) for run in listed["runs"]] == [
        ("tiny-1", "killed", 4),
        ("other-1", "finished", None),
    ]
    assert listed["jobs"] == []
    assert main(["list"]) == 0
    assert "other-1" in capsys.readouterr().out


@pytest.mark.fault(18)
@pytest.mark.parametrize("text", ['{"run_epoch": "0', "\0" * 80])
def test_a_damaged_lock_is_said_of_its_run_and_hides_no_other(
    directory: RunDirectory, process: subprocess.Popen[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = RunDirectory.create(Path("runs"), "torn")
    torn.write_config("name: torn\n")
    torn.lock.write_text(text)
    assert main(["list", "--json"]) == 0
    listed = {run["run"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert (listed["tiny-1"]["state"], listed["tiny-1"]["problem"]) == ("running", None)
    assert listed["torn-1"]["problem"] == "its lock is damaged"
    assert main(["list"]) == 0
    assert "running (its lock is damaged)" in capsys.readouterr().out, "it was touched a moment ago"
    assert main(["status", "torn-1"]) == 0
    assert "its lock is damaged" in capsys.readouterr().out
    assert main(["stop", "torn-1"]) == 2
    assert "its lock is damaged, so what to stop is not known" in capsys.readouterr().err
    assert main(["stop", "--all", "--timeout", "30"]) == 2
    told = capsys.readouterr()
    assert told.out.startswith("tiny-1: stopped") and f"{torn.path}: its lock is damaged" in told.err
    os.utime(torn.lock, (1, 1))
    assert main(["list"]) == 0
    assert "killed (its lock is damaged)" in capsys.readouterr().out
    assert main(["stop", "--all"]) == 0


def test_watch_prints_a_line_for_each_change_where_there_is_no_terminal(
    directory: RunDirectory, process: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_document(directory.status, status())
    watching = threading.Thread(target=main, args=(["status", "latest", "--watch"],))
    watching.start()
    said, end = "", time.monotonic() + LIMIT_S
    while "training" not in said and time.monotonic() < end:
        said += capsys.readouterr().out
        time.sleep(0.02)
    assert said.splitlines() == [
        "tiny-1: training, step 4/10 | loss 0.75 | samplers 1/2 teacher 1/1 | queue 3 | staleness 1/2 | ETA 12s | "
        "bottleneck: sampler (75% of a step)"
    ]
    process.kill()
    watching.join(LIMIT_S)
    assert not watching.is_alive() and "not running" in capsys.readouterr().out


def test_the_live_view_names_roles_states_and_the_bottleneck(
    directory: RunDirectory, process: subprocess.Popen[str]
) -> None:
    from rich.console import Console

    write_document(directory.status, status())
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - closed with the test
    console.print(view(RunSubject(directory)))
    text = console.export_text()
    for part in ("step 4/10", "loss 0.75", "ETA 12s", "1 healthy, 1 restarting", "110", "75%", "it was [killed]"):
        assert part in text, text
    assert "queue 3 | staleness 1/2" in text and "bottleneck: sampler (75% of a step)" in text


def test_of_several_teachers_what_is_measured_of_all_stands_once(
    directory: RunDirectory, process: subprocess.Popen[str]
) -> None:
    from rich.console import Console

    one = status()
    (teacher,) = one.teachers.values()
    several = one.model_copy(
        update={"teachers": {"math": teacher, "code": teacher}, "tokens_per_s": {"sampler": 110.0, "teacher": 815.0}}
    )
    write_document(directory.status, several)
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - closed with the test
    console.print(view(RunSubject(directory)))
    lines = {line.split("  ")[0]: line for line in console.export_text().splitlines()}
    assert "815" in lines["teachers"]
    assert "1/1" in lines["teacher math"] and "1/1" in lines["teacher code"]
    assert not any("815" in line for name, line in lines.items() if name != "teachers")


def test_a_run_here_comes_before_a_cluster_that_the_environment_names(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert find_subject("tiny-1", Path("runs"), None).directory is not None
    assert main(["status", "elsewhere"]) == 2
    assert "127.0.0.1:1: no Ray dashboard answers" in capsys.readouterr().err
    assert known_address("a", {"RAY_ADDRESS": "b"}) == "a"
    assert known_address(None, {"RAY_ADDRESS": "b", "RAY_API_SERVER_ADDRESS": "c"}) == "c"
    assert known_address(None, {"RAY_ADDRESS": ""}) is None
