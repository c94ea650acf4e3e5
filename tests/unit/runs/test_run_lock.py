"""One process at a time works on a run directory."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_dist.errors import RunError
from gkd_dist.runs import lease
from gkd_dist.runs.lock import Holder, RunLock, check_free, holder_of

HOLD = """
import os, sys
from pathlib import Path
from gkd_dist.runs.lock import Holder, RunLock
import socket
lock = RunLock(Path(sys.argv[1]))
lock.write(Holder(run_epoch="000001-0001-a", host=socket.gethostname(), pid=os.getpid(), started_at="then"))
print("held", flush=True)
sys.stdin.read()
"""


def holder(**changes: object) -> Holder:
    fields = {"run_epoch": "000001-0001-a", "host": socket.gethostname(), "pid": os.getpid(), "started_at": "then"}
    return Holder.model_validate({**fields, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.mark.fault(18)
def test_a_second_process_is_refused_until_the_first_is_killed(path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=-1, stdout=-1, text=True)
    try:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=rf"in use by process {first.pid} on .*; stop it, or wait"):
            RunLock(path)
        with pytest.raises(RunError, match=f"in use by process {first.pid}"):
            check_free(path)
        assert holder_of(path) == holder(pid=first.pid)
    finally:
        first.kill()
        assert first.wait(timeout=20) == -signal.SIGKILL
    assert holder_of(path) is None
    check_free(path)
    second = RunLock(path)
    assert second.former == holder(pid=first.pid)  # what a dead process left behind
    second.close()


@pytest.mark.fault(18)
def test_two_starts_in_one_process_exclude_each_other(path: Path) -> None:
    lock = RunLock(path)
    assert lock.former is None
    lock.write(holder())
    with pytest.raises(RunError, match="in use by process"):
        RunLock(path)
    assert holder_of(path) == holder()
    lock.close()
    lock.close()
    assert holder_of(path) is None
    RunLock(path).close()


def hold_on(host: str, path: Path) -> "subprocess.Popen[str]":
    """A process that holds the lock, on a machine of that name."""
    text = HOLD.replace("import socket\n", f"import socket\nsocket.gethostname = lambda: {host!r}\n")
    process = subprocess.Popen([sys.executable, "-c", text, str(path)], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.fault(16)
@pytest.mark.parametrize("take", [check_free, lambda path: RunLock(path).close()], ids=["look", "take"])
def test_what_a_lost_host_held_is_free_once_it_has_been_silent(
    path: Path, take: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = hold_on("head-a", path)
    monkeypatch.setattr(socket, "gethostname", lambda: "head-b")
    try:
        with pytest.raises(RunError, match=f"process {head.pid} on head-a.*; stop it, or wait"):
            take(path)
    finally:
        head.kill()
        head.wait(timeout=20)
    assert holder_of(path) is not None, "a moment ago it lived"
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    take(path)
    assert holder_of(path) is None


@pytest.mark.fault(16)
def test_the_next_head_knows_who_held_it_and_waits_no_longer_than_the_lease(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = holder(host="head-a", pid=1)
    path.write_text(left.model_dump_json())
    os.utime(path, times=(time.time() - lease.LEASE_S - 5,) * 2)
    monkeypatch.setattr(lease.time, "sleep", lambda _: pytest.fail("there is nothing left to wait for"))
    assert holder_of(path) is None
    lock = RunLock(path)
    assert lock.former == left
    lock.close()


@pytest.mark.fault(18)
@pytest.mark.parametrize("take", [check_free, RunLock])
def test_a_holder_of_another_host_that_gives_signs_of_life_is_never_replaced(
    path: Path, take: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(holder(host="elsewhere", pid=1).model_dump_json())  # and no kernel's lock: it does not reach here
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    heartbeat = lease.Heartbeat(path, lambda: None, lambda _: None)
    try:
        with pytest.raises(RunError, match=r"process 1 on elsewhere, .*, which gives signs of life from elsewhere"):
            take(path)
    finally:
        heartbeat.stop()


@pytest.mark.fault(18)
def test_one_that_ends_in_order_while_it_is_watched_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(holder(host="elsewhere", pid=1).model_dump_json())
    monkeypatch.setattr(lease.time, "sleep", lambda _: path.write_text(""))
    lock = RunLock(path)
    assert lock.former is None
    lock.close()


@pytest.mark.fault(15)
def test_a_holder_that_wakes_up_after_its_lease_ends(path: Path) -> None:
    taken = holder(host="head-b", pid=7, run_epoch="000002-0001-b").model_dump_json()
    assert "taken over by process 7 on head-b" in said_on_waking(path, lambda: path.write_text(taken))
    assert "head-b" in path.read_text()


@pytest.mark.fault(15)
@pytest.mark.parametrize("end", [lambda path: path.write_text(""), Path.unlink], ids=["ended", "removed"])
def test_a_holder_that_wakes_up_after_its_successor_has_ended_ends(path: Path, end: Callable[[Path], object]) -> None:
    assert "taken over by a process that has ended since" in said_on_waking(path, lambda: end(path))


def said_on_waking(path: Path, meanwhile: Callable[[], object]) -> str:
    """By a holder that is frozen while `meanwhile` happens, and ends with 70."""
    wakes = HOLD.replace("import socket\n", "import socket\nfrom gkd_dist.runs import lease\nlease.BEAT_S = 0.1\n")
    frozen = subprocess.Popen([sys.executable, "-c", wakes, str(path)], stdin=-1, stdout=-1, stderr=-1, text=True)
    try:
        assert frozen.stdout is not None and frozen.stdout.readline() == "held\n"
        frozen.send_signal(signal.SIGSTOP)
        meanwhile()
        frozen.send_signal(signal.SIGCONT)
        assert frozen.wait(timeout=20) == 70
        assert frozen.stderr is not None
        return frozen.stderr.read()
    finally:
        frozen.kill()
        frozen.communicate(timeout=20)


@pytest.mark.fault(15)
def test_one_that_ends_after_it_was_replaced_leaves_the_name_of_the_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 3600.0)
    lock = RunLock(path)
    lock.write(holder())
    other = holder(host="head-b", pid=7, run_epoch="000002-0001-b").model_dump_json()
    path.write_text(other)
    lock.close()
    assert path.read_text() == other


TORN = ["{", '{"pid": 1}', '{"run_epoch": 3}', "[]", pytest.param("\0" * 90, id="zeros")]


@pytest.mark.fault(18)
@pytest.mark.parametrize("text", TORN)
def test_a_damaged_file_is_free_once_nobody_gives_signs_of_life(
    path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(text)
    found = holder_of(path)
    assert found is not None and not found.is_known and not found.is_local, "somebody of another host may touch it"
    os.utime(path, times=(time.time() - lease.LEASE_S - 5,) * 2)
    monkeypatch.setattr(lease.time, "sleep", lambda _: pytest.fail("there is nothing left to wait for"))
    assert holder_of(path) is None
    check_free(path)
    lock = RunLock(path)
    assert lock.former is None
    lock.write(holder())
    assert holder_of(path) == holder()
    lock.close()


@pytest.mark.fault(18)
@pytest.mark.parametrize("text", TORN)
def test_a_damaged_file_is_not_free_while_its_holder_lives_who_mends_it(
    path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 3600.0)
    lock = RunLock(path)
    lock.write(holder())
    path.write_text(text)
    os.utime(path, times=(time.time() - lease.LEASE_S - 5,) * 2)
    for take in (RunLock, check_free):
        with pytest.raises(RunError, match=r"in use by a process that its damaged `lock` does not name.*; stop it"):
            take(path)
    assert holder_of(path) is not None
    lock.close()

    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    lock = RunLock(path)
    lock.write(holder())
    with path.open("r+") as file:  # never empty: that would say that somebody took it
        file.write(text)
        file.truncate()
    end = time.monotonic() + 20
    while holder_of(path) != holder():
        assert time.monotonic() < end
        time.sleep(0.02)
    lock.close()


def test_a_refused_start_leaves_the_holder_in_the_file(path: Path) -> None:
    lock = RunLock(path)
    lock.write(holder())
    before = path.read_text()
    with pytest.raises(RunError):
        RunLock(path)
    assert path.read_text() == before
    lock.close()
    assert path.read_text() == ""
