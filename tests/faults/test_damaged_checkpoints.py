"""A run that was killed, and what it left is damaged, or is asked to go on with something else."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gkd_process import Runs, equal


@pytest.fixture(scope="module")
def killed(
    made: Callable[..., Runs], local_overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    """Has two good checkpoints, and was killed when it began the third."""
    runs = made(tmp_path_factory.mktemp("killed") / "local", *local_overrides)
    runs.dies("checkpoint.before_files:kill@3")
    return runs


@pytest.fixture
def half(killed: Runs, made: Callable[..., Runs], local_overrides: tuple[str, ...], tmp_path: Path) -> Iterator[Runs]:
    """A copy of it."""
    runs = made(tmp_path / "half", *local_overrides)
    shutil.copytree(killed.output, runs.output, symlinks=True)
    shutil.copytree(killed.folder / "cache", runs.folder / "cache")
    yield runs
    runs.end()


def flip_a_bit(checkpoint: Path) -> None:
    """In the middle of its largest file."""
    file = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.fault(26)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(half: Runs, clean: Runs) -> None:
    older, newer = sorted(half.directory.checkpoints.glob("step-*"), key=lambda path: int(path.name[5:]))
    for checkpoint in (older, newer):
        flip_a_bit(checkpoint)
    refused = half.ends(2)
    assert "no checkpoint in" in refused.said
    for checkpoint in (older, newer):
        assert f"error:   {checkpoint.name}: learner/" in refused.said
    assert "Traceback" not in refused.said
    flip_a_bit(older)
    said = half.ends(0).said
    found = said.index(f"newest checkpoint: step {newer.name[5:]}\n")
    damaged = said.index(f"checkpoint {newer.name} cannot be used (learner/")
    assert "does not match its checksum" in said
    assert found < damaged < said.index(f"going on after step {older.name[5:]} instead, from")
    assert equal(half, clean)


@pytest.mark.fault(26)
def test_a_ledger_that_was_cut_leads_back_to_a_checkpoint_that_it_covers(half: Runs, clean: Runs) -> None:
    """Cut inside of a record, and killed before it was made good: the third start does what the second was to do."""
    older, newer = sorted(half.directory.checkpoints.glob("step-*"), key=lambda path: int(path.name[5:]))
    step = int(older.name[5:])
    lines = half.directory.ledger.read_bytes().splitlines(keepends=True)
    assert len(lines) > step, "witness: it knew more"
    half.directory.ledger.write_bytes(b"".join(lines[: step + 1])[:-9])
    said = half.dies("recovery.before_cut:kill").said
    assert f"checkpoint {newer.name} cannot be used (the ledger ends after {step} steps)" in said
    assert f"going on after step {step} instead, from" in said
    assert not newer.exists()
    assert f"going on after step {step}, from" in half.ends(0).said
    assert equal(half, clean)


@pytest.mark.fault(27)
def test_another_configuration_is_refused_with_every_difference(half: Runs) -> None:
    before = {path: path.stat().st_mtime_ns for path in half.directory.path.rglob("*")}
    said = half.ends(2, "learner.learning_rate=0.5", "seed=3", "learner.max_steps=9").said
    assert "cannot go on with this configuration" in said
    assert "learner.learning_rate: there 0.001, here 0.5" in said
    assert "seed: there 0, here 3" in said
    assert "max_steps" not in said  # may change
    assert "checkpoint.resume=false" in said
    assert {path: path.stat().st_mtime_ns for path in half.directory.path.rglob("*")} == before


@pytest.fixture
def small_disk(half: Runs) -> Iterator[Path]:
    """The output folder on a file system with room for one checkpoint and a half."""
    used = half.directory.last_checkpoint
    size = sum(path.stat().st_size for path in half.directory.checkpoints.joinpath(f"step-{used}").rglob("*"))
    shutil.rmtree(half.output)
    half.output.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2}", "tmpfs", str(half.output)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system here")
    yield half.output
    half.end()
    subprocess.run(["umount", str(half.output)], check=True)


@pytest.mark.fault(31)
def test_a_full_disk_costs_checkpoints_and_then_the_run(half: Runs, small_disk: Path, clean: Runs) -> None:
    said = half.ends(70, "checkpoint.max_failures=2").said
    assert "No space left on device" in said
    assert "the checkpoint of step 2 failed, former ones stay" in said
    assert "2 checkpoints in a row could not be written; look at the disk" in said
    assert half.directory.last_checkpoint == 1
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    assert "newest checkpoint: step 1;" in half.ends(0).said
    assert equal(half, clean)


def test_a_lost_evaluation_of_the_untrained_student_is_done_again(local: Runs) -> None:
    """The second start has the same untrained student in its engines before it goes on from the checkpoint."""
    evaluated = ("evaluation.enabled=true", "learner.max_steps=3")
    local.dies("checkpoint.before_files:kill@2", *evaluated)
    first = local.directory.before.read_text()
    local.directory.before.write_text("{")
    said = local.ends(0, *evaluated).said
    assert "going on after step 1" in said and "held out" in said
    assert local.directory.before.read_text() == first
    assert json.loads(local.directory.summary.read_text()).keys() >= {"before", "after"}
