"""One process at a time works on a run directory."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gkd_dist.errors import RunError
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


@pytest.mark.fault(18)
def test_of_another_host_nothing_is_known_and_the_file_decides(path: Path) -> None:
    path.write_text(holder(host="elsewhere", pid=1).model_dump_json())
    status = path.parent / "control" / "status.json"
    status.parent.mkdir()
    for age_s, sign in ((0, r"lock \d+ s ago"), (-100, r"status.json 0 s ago"), (3 * 3600, r"status.json 3.0 h ago")):
        if age_s:
            status.touch()
            os.utime(status, times=(time.time() - age_s,) * 2)
            os.utime(path, times=(0, 0))
        for attempt in (lambda: RunLock(path), lambda: check_free(path)):
            with pytest.raises(RunError, match="process 1 on elsewhere") as caught:
                attempt()
            assert re.search(f"last wrote .*{sign}", str(caught.value))
            assert "Look on elsewhere with `ps -p 1`" in str(caught.value)
            assert f"delete the lock with `rm {path}`" in str(caught.value)
    assert holder_of(path) == holder(host="elsewhere", pid=1)
    path.unlink()
    check_free(path)
    RunLock(path).close()


@pytest.mark.parametrize("text", ["{", '{"pid": 1}', '{"run_epoch": 3}', "[]"])
def test_a_file_of_something_else_is_named(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(RunError, match=f"{path}: .*remove it"):
        RunLock(path)
    with pytest.raises(RunError, match=f"{path}: .*remove it"):
        holder_of(path)


def test_a_refused_start_leaves_the_holder_in_the_file(path: Path) -> None:
    lock = RunLock(path)
    lock.write(holder())
    before = path.read_text()
    with pytest.raises(RunError):
        RunLock(path)
    assert path.read_text() == before
    lock.close()
    assert path.read_text() == ""
