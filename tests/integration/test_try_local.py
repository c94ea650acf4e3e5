"""deploy/compose/try-local.sh: from a Ray head to a report, and nothing left behind, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.prometheus import binary
from tests.tiny_runs import arguments

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "deploy" / "compose" / "try-local.sh"
LIMIT_S = 280


def start(
    words: list[str], folder: Path, log: Path, changes: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "GKD_TRY_OUTPUT": str(folder / "runs"),
        "GKD_TRY_WINDOW_S": "10",
        "GKD_TRY_LIMIT_S": "120",
    }
    with log.open("wb") as stream:
        command = ["bash", str(SCRIPT), *words]
        return subprocess.Popen(
            command, env=environment | (changes or {}), stdout=stream, stderr=stream, start_new_session=True
        )


def of_session(pid: int) -> list[psutil.Process]:
    """Processes that were started by the script, and live."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


def words_of(models: dict[str, Path], data: Path, folder: Path) -> list[str]:
    small = ("cluster.num_cpus_per_sampler=0.1", "cluster.num_cpus_per_teacher=0.1", "cluster.num_cpus_learner=0.1")
    return arguments(models, data, folder / "runs", "checkpoint.save_steps=20", *small)


def test_without_prometheus_it_says_what_is_missing_and_starts_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = start([], tmp_path, log, {"GKD_PROMETHEUS": "/nowhere/prometheus"})
    assert script.wait(LIMIT_S) == 2
    assert "no prometheus" in log.read_text()
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_it_goes_from_a_head_to_a_report(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    changes = {"GKD_PROMETHEUS": binary("prometheus", "GKD_PROMETHEUS")}
    script = start(words_of(models, data, tmp_path), tmp_path, log, changes)
    try:
        assert script.wait(LIMIT_S) == 0, log.read_text()
    finally:
        left = of_session(script.pid)
        for each in left:
            each.kill()
    said = log.read_text()
    assert "1 sampler: " in said and "2 samplers: " in said, said
    assert (tmp_path / "runs" / "latest" / "report.html").exists()
    assert left == []


@pytest.mark.slow
@pytest.mark.ray
def test_ctrl_c_ends_what_it_has_started(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    changes = {"GKD_PROMETHEUS": binary("prometheus", "GKD_PROMETHEUS")}
    script = start(words_of(models, data, tmp_path), tmp_path, log, changes)
    try:
        end = time.monotonic() + LIMIT_S
        while "== Prometheus" not in log.read_text():
            assert script.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        os.killpg(script.pid, signal.SIGINT)  # as a terminal does
        assert script.wait(LIMIT_S) == 130, log.read_text()
    finally:
        left = of_session(script.pid)
        for each in left:
            each.kill()
    assert left == []
