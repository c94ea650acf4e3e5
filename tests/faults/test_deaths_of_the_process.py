"""The whole process is killed: the same command goes on, and the result is that of a run without faults."""

import signal

import pytest

from tests.gkd_process import Runs, equal


def unfinished(runs: Runs) -> list[str]:
    """Drafts, and folders of checkpoints without their marker."""
    folders = runs.directory.checkpoints.iterdir()
    return [folder.name for folder in folders if folder.name.startswith(".") or not (folder / "COMPLETE").exists()]


@pytest.mark.fault(10)
@pytest.mark.fault(34)
def test_killed_three_times_within_a_step(local: Runs, clean: Runs) -> None:
    # The learner pauses once, so that the first checkpoint is on the disk whatever the disk.
    local.ends(-signal.SIGKILL, faults="learner.after_forward:delay=1@3;learner.after_forward:kill@4")
    assert "continuing" in local.dies("learner.after_backward:kill@2").said
    assert "continuing" in local.dies("learner.in_optimizer_step:kill@2").said
    local.ends(0)
    assert equal(local, clean)
    assert local.directory.name == "tiny-1"


@pytest.mark.fault(11)
def test_killed_at_every_moment_of_a_checkpoint(local: Runs, clean: Runs) -> None:
    local.dies("checkpoint.before_files:kill@2")
    assert unfinished(local) == [f".step-{step}.{pid}.tmp" for step, pid in drafts(local)] != []
    first = local.directory.last_checkpoint
    assert f"checkpoint: step {first}\n" in local.dies("checkpoint.between_files:kill@2").said
    assert local.directory.last_checkpoint == first
    assert f"checkpoint: step {first}\n" in local.dies("checkpoint.before_marker:kill").said
    assert any(name.startswith("step-") for name in unfinished(local))
    assert local.directory.last_checkpoint == first
    assert f"checkpoint: step {first}\n" in local.dies("checkpoint.after_marker:kill").said
    last = local.directory.last_checkpoint
    assert last == first + 1
    assert f"checkpoint: step {last}\n" in local.ends(0).said
    assert unfinished(local) == []
    assert equal(local, clean)


def drafts(runs: Runs) -> list[list[str]]:
    names = [path.name for path in runs.directory.checkpoints.glob(".step-*")]
    return [name.removeprefix(".step-").split(".")[:2] for name in names]


@pytest.mark.fault(18)
def test_a_second_start_is_refused_while_the_first_lives(local: Runs, clean: Runs) -> None:
    hang = "learner.after_forward:hang@4"
    first = local.start(faults=f"learner.after_forward:delay=1@3;{hang}")
    first.until_fired(hang)
    second = local.ends(2)
    assert f"in use by process {first.pid} on " in second.said
    first.send(signal.SIGKILL)
    assert first.ended() == -signal.SIGKILL
    assert f"continuing {local.directory.path} (attempt " in local.ends(0).said
    assert equal(local, clean)
