"""Nothing moves any more: the run explains itself, and ends."""

import json
from typing import Any

import pytest

from gkd_dist.runs.attempts import read_attempts
from tests.gkd_process import GkdProcess, Runs

DEADLINES = (
    "supervision.stall_timeout_s=4",
    "cluster.request_timeout_s=3",
    "sampling.max_new_tokens=4",
)


def diagnosed(runs: Runs, process: GkdProcess) -> dict[str, Any]:
    """What the run says about its stall; the command names the file."""
    assert "nothing has come to an end for 4 s (supervision.stall_timeout_s)" in process.said
    assert str(runs.directory.diagnosis) in process.said
    found = json.loads(runs.directory.diagnosis.read_text())
    assert found["idle_s"] >= found["timeout_s"] == 4
    assert {"thread MainThread", "thread watchdog"} <= found["stacks"].keys()
    assert found["replicas"]["sampler"]["states"] == {"0": "healthy"}
    return found


@pytest.mark.fault(23)
def test_a_step_that_is_dropped_without_a_word(local: Runs) -> None:
    """Rows are in flight, and nobody works on them. The last step gets a checkpoint that it would not have had."""
    found = diagnosed(local, local.ends(70, *DEADLINES, "checkpoint.save_steps=0", faults="replay.admit:cancel@9"))
    assert [row["row"] for row in found["in_flight"]] == [8, 9, 10, 11]
    assert (found["replay"]["student"], found["replay"]["fixed"], found["step"]) == (0, 0, 2)
    assert local.directory.last_checkpoint == 2
    assert len(local.ends(0, *DEADLINES).said) > 0
    assert sorted(local.steps) == list(range(8))


@pytest.mark.fault(23)
def test_nothing_in_flight_and_nothing_done(local: Runs) -> None:
    """The publishing loop ends without a word, so no place for the third step is ever free."""
    found = diagnosed(local, local.ends(70, *DEADLINES, faults="publishing.live:cancel@2"))
    assert found["in_flight"] == []
    assert (found["step"], found["live_version"]) == (2, 1)
    assert (found["replay"]["student"], found["replay"]["fixed"]) == (0, 0)


@pytest.mark.fault(23)
@pytest.mark.slow
def test_a_learner_that_hangs(local: Runs) -> None:
    """It answers no wish for a checkpoint either."""
    process = local.ends(70, *DEADLINES, "checkpoint.save_steps=0", faults="learner.after_forward:hang@3")
    found = diagnosed(local, process)
    assert any("fault_points.py" in line for line in found["stacks"]["thread learner"])
    assert "no checkpoint at the end" in process.said


@pytest.mark.fault(23)
@pytest.mark.slow
def test_an_event_loop_that_stands_still(local: Runs) -> None:
    """The watchdog's own thread ends the process."""
    process = local.ends(70, *DEADLINES, faults="scoring.ask:hang@3")
    found = json.loads(local.directory.diagnosis.read_text())
    assert any("fault_points.py" in line for line in found["stacks"]["thread MainThread"])
    assert "the event loop does not react" in process.said
    (attempt,) = read_attempts(local.directory.attempts)
    assert (attempt.how, attempt.exit_code) == ("StalledError: even the event loop stood still", 70)


@pytest.mark.fault(23)
@pytest.mark.slow
def test_an_evaluation_that_hangs(local: Runs) -> None:
    process = local.ends(70, *DEADLINES, "evaluation.enabled=true", faults="scoring.ask:hang@1")
    found = json.loads(local.directory.diagnosis.read_text())
    assert found["phase"] == "evaluating before training"
    assert "stalled while evaluating before training" in process.said
    assert local.directory.last_checkpoint is None


@pytest.mark.fault(23)
@pytest.mark.slow
def test_a_part_that_never_comes_up(local: Runs) -> None:
    """Longer than what a first part needs to import."""
    limits = ("supervision.stall_timeout_s=20", "cluster.request_timeout_s=3", "cluster.startup_timeout_s=20")
    process = local.start(*limits, faults="local.build:hang@2")
    assert process.ended() == 70
    found = json.loads(local.directory.diagnosis.read_text())
    assert found["phase"] == "starting the engines"
    assert [line.split(" after")[0] for line in found["said"]] == ["sampler 0 up"]
    assert "starting the engines: nothing has come to an end for 40 s" in process.said
