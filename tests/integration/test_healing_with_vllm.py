"""A run over real vLLM engines goes on when they die, and stops in order: through the command, as users have it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gkd_dist.replay.ledger import Ledger, StepEntry
from tests.processes import family_of, kill_all
from tests.tiny_runs import arguments

pytest.importorskip("vllm", reason="needs vLLM")

HEALED_WITHIN_S = 240
NO_ROOM_NEEDED = tuple(f"cluster.num_cpus_{part}=0.1" for part in ("per_sampler", "per_teacher", "learner"))


def await_that(condition: Callable[[], Any], log: Path, seconds: float = HEALED_WITHIN_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def status_of(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / "control" / "status.json").read_text())
    except (OSError, ValueError):
        return {}


def slot(run: Path, *role: str) -> dict[str, Any]:
    """The first slot of a role."""
    found = status_of(run)
    for name in role:
        found = found.get(name, {})
    return found["slots"][0] if found.get("slots") else {}


def healed(run: Path, *role: str) -> bool:
    found = slot(run, *role)
    return found.get("state") == "healthy" and found["restarts"] >= 1


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.fault(1)
@pytest.mark.fault(2)
@pytest.mark.fault(7)
@pytest.mark.fault(33)
def test_engines_die_and_come_back_while_the_run_goes_on(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gkd_dist", "run"]
    command += arguments(
        models,
        data,
        tmp_path,
        "cluster.mode=ray",
        "mode=async",
        "replay.max_staleness=2",
        "sampler.engine=vllm",
        "teacher.engine=vllm",
        "learner.max_steps=100000",
        "checkpoint.save_steps=10",
        "evaluation.enabled=false",
        *NO_ROOM_NEEDED,
    )
    log, run = tmp_path / "log", tmp_path / "latest"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    family: list[psutil.Process] = []
    try:
        await_that(lambda: status_of(run).get("step", 0) >= 5, log, 400)
        teacher, sampler = slot(run, "teachers", "teacher")["pid"], slot(run, "samplers")["pid"]
        kill_all(psutil.Process(teacher).children(recursive=True))  # its engine: the actor itself lives
        await_that(lambda: healed(run, "teachers", "teacher"), log)
        assert not psutil.pid_exists(teacher), "its engine was dead: the actor was replaced"
        os.kill(sampler, signal.SIGKILL)
        await_that(lambda: healed(run, "samplers"), log)
        step = status_of(run)["step"]
        await_that(lambda: status_of(run).get("step", 0) >= step + 10, log)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 75, log.read_text()[-3000:]
        _, alive = psutil.wait_procs(family, timeout=30)
        assert [each for each in alive if "Sampler" in each.name() or "VLLM" in each.name()] == []
    finally:
        kill_all([*family, *family_of(process.pid)])
        process.kill()
    entries = [entry for entry in Ledger(run / "ledger.jsonl").entries() if isinstance(entry, StepEntry)]
    ids = [str(sequence.sample_id) for entry in entries for sequence in entry.sequences]
    assert len(ids) == len(set(ids)), "nothing was trained on twice"
    assert [entry.step for entry in entries] == list(range(len(entries)))
    assert max(sequence.staleness for entry in entries for sequence in entry.sequences) <= 2
    newest = max(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))
    assert newest == len(entries), "the checkpoint holds the last step"
