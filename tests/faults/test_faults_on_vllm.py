"""The worst of the faults with real engines on both sides: samplers and teachers are vLLM in Ray actors."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gkd_dist.replay.ledger import Ledger, StepEntry
from tests.gkd_process import Runs
from tests.poison import pairs, same, save_poisoned, weights

pytest.importorskip("vllm", reason="needs vLLM")
pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

LIMIT_S = 600.0
"""Engines need most of a minute to start, and start again here."""
VLLM = (
    "evaluation.enabled=false",
    "learner.max_steps=8",
    "checkpoint.save_steps=1",
    "cluster.mode=ray",
    "sampler.engine=vllm",
    "teacher.engine=vllm",
    "cluster.num_cpus_per_sampler=0.1",
    "cluster.num_cpus_per_teacher=0.1",
    "cluster.num_cpus_learner=0.1",
)


@pytest.fixture
def vllm(made: Callable[..., Runs], tmp_path: Path) -> Iterator[Runs]:
    runs = made(tmp_path / "vllm", *VLLM)
    yield runs
    runs.end()


def steps_of(runs: Runs) -> list[StepEntry]:
    return [entry for entry in Ledger(runs.directory.ledger).entries() if isinstance(entry, StepEntry)]


@pytest.mark.fault(4)
@pytest.mark.fault(10)
def test_the_learner_dies_and_then_the_sampler_freezes(vllm: Runs) -> None:
    """Both are replaced, no step is lost, and no sequence is trained on twice."""
    faults = "learner.after_backward:kill@3;sampler.before_sample:stop@6"
    deadlines = ("cluster.request_timeout_s=20", "supervision.failures_to_condemn=2")
    process = vllm.ends(0, *deadlines, faults=faults, limit_s=LIMIT_S)
    assert "starting another learner (1 of 1)" in process.said
    steps = steps_of(vllm)
    assert [entry.step for entry in steps] == list(range(8))
    ids = [str(sequence.sample_id) for entry in steps for sequence in entry.sequences]
    assert len(ids) == len(set(ids)) == 8 * 4
    assert all(sequence.staleness == 0 for entry in steps for sequence in entry.sequences)


@pytest.mark.fault(23)
def test_a_step_of_real_engines_that_is_dropped_without_a_word(vllm: Runs) -> None:
    """The run explains itself and ends; the same command takes it to its end."""
    deadlines = (
        "supervision.stall_timeout_s=30",
        "supervision.role_loss_grace_s=20",
        "cluster.request_timeout_s=15",
    )
    process = vllm.ends(70, *deadlines, "checkpoint.save_steps=0", faults="replay.admit:cancel@9", limit_s=LIMIT_S)
    assert "nothing has come to an end for 30 s" in process.said
    found = json.loads(vllm.directory.diagnosis.read_text())
    assert [row["row"] for row in found["in_flight"]] == [8, 9, 10, 11]
    assert vllm.directory.last_checkpoint == 2
    assert "continuing" in vllm.ends(0, *deadlines, limit_s=LIMIT_S).said
    assert [entry.step for entry in steps_of(vllm)] == list(range(8))


@pytest.mark.fault(24)
def test_a_poisoned_row_leaves_no_trace_in_a_student_that_vllm_samples(vllm: Runs) -> None:
    poisoned = save_poisoned(vllm.folder / "poisoned")
    data = pairs(vllm.folder / "pairs.jsonl", 6)
    fixed = ("objective.student_fraction=0.5", "learner.save_steps=1", "learner.max_nonfinite_steps=8")
    vllm.ends(0, f"student.model={poisoned}", f"data.path={data}", *fixed, limit_s=LIMIT_S)
    skipped = [vllm.steps[step]["skipped"] for step in range(8)]
    assert sorted(set(skipped)) == [0, 1]
    former = weights(poisoned)
    for step in range(8):
        now = weights(vllm.directory.students / f"step-{step + 1}")
        assert same(former, now) == (skipped[step] == 1)
        assert all(tensor.isfinite().all() for tensor in now.values())
        former = now
