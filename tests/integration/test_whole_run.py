"""The ring end to end: one process, then Ray; transformers engines, then vLLM. Nothing here is a fake."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from gkd_dist.cli import main
from gkd_dist.runs.events import read_events
from tests.tiny_runs import arguments, losses, records


def test_a_run_in_one_process_repeats_bit_for_bit(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert main(["run", *arguments(models, data, tmp_path / name)]) == 0
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    assert len(losses(tmp_path / "first")) == 4
    finals = [
        dict(AutoModelForCausalLM.from_pretrained(tmp_path / name / "latest" / "final").named_parameters())
        for name in ("first", "second")
    ]
    assert all(bool((finals[0][name] == finals[1][name]).all()) for name in finals[0])


def test_a_run_directory_describes_itself(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    assert main(["run", *arguments(models, data, tmp_path, "learner.save_steps=2")]) == 0
    run = tmp_path / "latest"
    assert run.resolve().name == "tiny-1"
    found = {path.name for path in run.iterdir()}
    assert found >= {"config.yaml", "versions.json", "metrics.jsonl", "samples.jsonl", "summary.json", "final"}
    assert {path.name for path in (run / "students").iterdir()} == {"step-2", "step-4"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["after"]["on_policy/forward_kl_nats"] > 0
    sample = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    greedy = {"before_greedy", "after_greedy", "teacher_greedy"}
    assert sample.keys() == {"prompt", "before", "after", "reference"} | greedy
    assert "forward_kl" in (run / "final" / "README.md").read_text()
    events = read_events(run / "events.jsonl")
    stages = [event.state for event in events if event.kind == "stage"]
    assert stages == ["evaluating", "training", "saving", "evaluating"]
    healthy = {event.role for event in events if event.kind == "replica" and event.state == "healthy"}
    assert healthy == {"sampler", "teacher"}
    assert [event.step for event in events if event.kind == "checkpoint"] == [4]
    assert main(["validate", str(run / "config.yaml")]) == 0


def test_a_saved_student_can_be_evaluated_and_trained_on(
    models: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments(models, data, tmp_path)]) == 0
    capsys.readouterr()
    final = tmp_path / "latest" / "final"
    assert main(["eval", *arguments(models, data, tmp_path), "--model", str(final)]) == 0
    summary = json.loads((tmp_path / "latest" / "summary.json").read_text())
    printed = capsys.readouterr().out
    assert f"{summary['after']['reference/forward_kl_nats']:.3f}" in printed


def test_full_targets_train_like_hidden_states(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """To 1e-4: the teacher's log-softmax is taken on one side or on the other, in float32."""
    for transport in ("hidden", "full"):
        extra = (f"teacher.transport={transport}", "evaluation.enabled=false")
        assert main(["run", *arguments(models, data, tmp_path / transport, *extra)]) == 0
    assert losses(tmp_path / "hidden") == pytest.approx(losses(tmp_path / "full"), rel=1e-4)


def test_sequences_train_with_a_teacher_mixed_into_sampling(
    models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    extra = ("objective.divergence=sequence_reverse_kl", "objective.student_fraction=1", "sampling.teacher_mix=0.2")
    assert main(["run", *arguments(models, data, tmp_path, *extra, "evaluation.enabled=false")]) == 0
    assert all(0 < loss < 20 for loss in losses(tmp_path))
    assert all(record["skipped"] == record["fixed_sequences"] == 0 for record in records(tmp_path))


@pytest.mark.ray
def test_ray_gives_the_losses_of_one_process(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """To 1e-5, and bit for bit from one Ray run to the next."""
    assert main(["run", *arguments(models, data, tmp_path / "local")]) == 0
    for name in ("ray-1", "ray-2"):
        assert main(["run", *arguments(models, data, tmp_path / name, "cluster.mode=ray")]) == 0
    assert losses(tmp_path / "ray-1") == pytest.approx(losses(tmp_path / "local"), rel=1e-5)
    assert losses(tmp_path / "ray-1") == losses(tmp_path / "ray-2")


@pytest.mark.ray
def test_replicas_share_the_work_and_change_no_loss(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """To 1e-5: the same samples in smaller batches, summed in another order."""
    assert main(["run", *arguments(models, data, tmp_path / "one")]) == 0
    extra = ("cluster.mode=ray", "sampler.num_replicas=2", "cluster.num_cpus_per_sampler=0.25")
    assert main(["run", *arguments(models, data, tmp_path / "two", *extra)]) == 0
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=1e-5)


@pytest.mark.ray
def test_too_many_samplers_are_refused_by_the_missing_resource(
    models: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ("cluster.mode=ray", "sampler.num_replicas=5000")
    assert main(["run", *arguments(models, data, tmp_path, *extra)]) == 2
    assert "CPU: 2" in capsys.readouterr().err


@pytest.mark.ray
def test_an_engine_that_cannot_start_ends_the_run_with_its_reason(
    models: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ("cluster.mode=ray", "cluster.startup_timeout_s=2")
    assert main(["run", *arguments(models, data, tmp_path, *extra)]) == 70
    error = capsys.readouterr().err
    assert "cluster.startup_timeout_s (2 s)" in error
    assert "Traceback" not in error


@pytest.mark.ray
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_run_leaves_no_actor_behind(
    models: dict[str, Path], data: Path, tmp_path: Path, kill: signal.Signals
) -> None:
    command = [sys.executable, "-m", "gkd_dist", "run"]
    command += arguments(models, data, tmp_path, "cluster.mode=ray", "learner.max_steps=5000")
    if kill is signal.SIGKILL:
        command += ["sampler.engine=vllm"]
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    try:
        wait_until(lambda: "step 3/5000" in log.read_text(), 120, log)
        session = os.getsid(process.pid)
        assert any("Actor" in line for line in processes_of(session))
        process.send_signal(kill)
        assert process.wait(60) == (75 if kill is signal.SIGINT else -signal.SIGKILL)
        wait_until(lambda: not [line for line in processes_of(session) if "Actor" in line or "VLLM" in line], 60, log)
    finally:
        for line in processes_of(process.pid):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    if kill is signal.SIGINT:
        assert "Traceback" not in log.read_text()


def wait_until(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def processes_of(session: int) -> list[str]:
    """`pid command` of every process of a session."""
    listed = subprocess.run(["ps", "-s", str(session), "-o", "pid=,args="], capture_output=True, text=True, check=False)
    return [line.strip() for line in listed.stdout.splitlines() if "<defunct>" not in line]


@pytest.mark.ray
@pytest.mark.vllm
def test_the_ring_turns_on_ray_with_vllm_engines(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    extra = (
        "cluster.mode=ray",
        "sampler.engine=vllm",
        "teacher.engine=vllm",
        "objective.mix=per_sequence",
        "learner.max_steps=3",
    )
    assert main(["run", *arguments(models, data, tmp_path, *extra)]) == 0
    found = records(tmp_path)
    assert [record["policy_version"] for record in found] == [1, 2, 3]
    assert all(record["sampled_tokens"] > 0 and record["staleness"] == 0 for record in found)
    final = tmp_path / "latest" / "final"
    extra = ("sampler.engine=vllm", "sampler.max_model_len=128", "teacher.max_model_len=128")
    assert main(["eval", *arguments(models, data, tmp_path, *extra), "--model", str(final)]) == 0
