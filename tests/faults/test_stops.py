"""A wish to stop, from a scheduler or a person: the step is finished, a checkpoint written, and the command goes on."""

import signal

import pytest

from gkd_dist.runs.attempts import read_attempts
from tests.gkd_process import Runs, equal

MOMENTS = ["scoring.ask:delay=2@2", "learner.after_forward:delay=2@2", "checkpoint.between_files:delay=2@2"]
"""Before the step, within it, and while a checkpoint is written."""


@pytest.mark.fault(33)
def test_stopped_at_several_moments(local: Runs, clean: Runs) -> None:
    for number, moment in zip((signal.SIGTERM, signal.SIGINT, signal.SIGTERM), MOMENTS, strict=True):
        process = local.start(faults=moment)
        process.until_fired(moment)
        process.send(number)
        assert process.ended() == 75, process.said
        assert f"{signal.Signals(number).name}: stopped with a good checkpoint" in process.said
        assert "Traceback" not in process.said
    local.ends(0)
    assert equal(local, clean)
    assert local.directory.name == "tiny-1"


@pytest.mark.fault(33)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_while_engines_start(local: Runs, number: signal.Signals, code: int) -> None:
    slow = "local.build:delay=60@2"
    process = local.start(faults=slow)
    process.until_fired(slow)
    process.send(number)
    assert process.ended() == code, process.said
    assert "sampler 0 up after" in process.said
    assert process.said.endswith(f"{number.name}: stopped before the first step; nothing to save\n")
    assert [path.name for path in local.output.iterdir()] == []


@pytest.mark.fault(33)
def test_a_stop_before_the_first_step_is_kept_too(local: Runs, clean: Runs) -> None:
    process = local.start("checkpoint.save_steps=0")
    process.until_said("all engines are up")
    process.send(signal.SIGTERM)
    assert process.ended() == 75, process.said
    assert local.directory.last_checkpoint is not None
    assert "continuing" in local.ends(0).said
    assert equal(local, clean)


@pytest.mark.fault(33)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_ctrl_c_ends_it_at_once(local: Runs, number: signal.Signals) -> None:
    hang = "learner.after_forward:hang@2"
    process = local.start(faults=hang)
    process.until_fired(hang)
    process.send(number)
    process.until_said(f"{number.name}: finishing this step")
    process.send(signal.SIGINT)
    assert process.ended() == 130
    assert "stopped at once" in process.said
    assert local.directory.lock.read_text() != ""  # it has no time for more than the end of its attempt
    (attempt,) = read_attempts(local.directory.attempts)
    assert (attempt.how, attempt.exit_code) == ("interrupted", 130)
