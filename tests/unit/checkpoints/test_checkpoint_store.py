"""Checkpoints on disk: what a crash, a damaged file or a full disk leaves behind."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gkd_dist.checkpoints import manifest
from gkd_dist.checkpoints import store as stores
from gkd_dist.checkpoints.manifest import MANIFEST, MARKER
from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.errors import UserError

FILES = {
    "learner/parameters.safetensors": b"\x00\x01" * 700,
    "learner/learner.json": b"{}",
    "ring.json": b'{"step": 1}',
}
REPOSITORY = Path(__file__).parents[3]


def write(folder: Path, step: int) -> None:
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content + str(step).encode())


def save(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        write(store.draft(step), step)
        store.commit(step)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest_step(folder: Path) -> int | None:
    """As a new process sees it."""
    found = CheckpointStore(folder, keep=2).newest()
    return found and found.step


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def test_nothing_was_ever_saved(store: CheckpointStore) -> None:
    assert store.newest() is None
    assert store.prune() == []


def test_a_committed_checkpoint_holds_the_files_and_the_draft_is_gone(store: CheckpointStore) -> None:
    draft = store.draft(7)
    assert draft.name.startswith(".")
    assert list(draft.iterdir()) == []
    write(draft, 7)
    assert newest_step(store.folder) is None
    path = store.commit(7)
    assert names(store.folder) == ["step-7"]
    assert {name: (path / name).read_bytes() for name in FILES} == {
        name: content + b"7" for name, content in FILES.items()
    }
    found = CheckpointStore(store.folder, keep=1).newest()
    assert found is not None
    assert (found.step, found.path, found.discarded) == (7, path, ())


def test_steps_are_ordered_by_number(store: CheckpointStore) -> None:
    save(store, 9, 10)
    assert newest_step(store.folder) == 10


def test_only_what_was_drafted_can_be_committed(store: CheckpointStore) -> None:
    with pytest.raises(ValueError, match="no draft of step 3"):
        store.commit(3)
    store.draft(3)
    store.abandon(3)
    assert names(store.folder) == []
    with pytest.raises(ValueError, match="no draft of step 3"):
        store.commit(3)


def test_a_second_checkpoint_of_a_step_leaves_the_first_as_it_is(store: CheckpointStore) -> None:
    save(store, 4)
    (store.draft(4) / "ring.json").write_text("another")
    path = store.commit(4)
    assert (path / "ring.json").read_bytes() == FILES["ring.json"] + b"4"
    assert names(store.folder) == ["step-4"]


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(store: CheckpointStore) -> None:
    save(store, 3, 4)
    (store.path_of(4) / "ring.json").write_text("damaged")
    again = CheckpointStore(store.folder, keep=2)
    assert again.newest().step == 3
    save(again, 4)
    assert newest_step(store.folder) == 4


# Row 26: every file, damaged in every way.

DAMAGES = {
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\x00"),
    "deleted": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to a copy": lambda path: path.symlink_to(path.rename(path.parent.parent.parent / "elsewhere")),
}


@pytest.mark.fault(26)
@pytest.mark.parametrize("name", [*FILES, MANIFEST, MARKER])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_leads_back_to_the_former_checkpoint_and_is_told(
    store: CheckpointStore, name: str, damage: str
) -> None:
    save(store, 1, 2)
    DAMAGES[damage](store.path_of(2) / name)
    found = CheckpointStore(store.folder, keep=2).newest()
    assert (found.step, [each.path for each in found.discarded]) == (1, [store.path_of(2)])
    reason = found.discarded[0].reason
    assert Path(name).name in reason or (name == MARKER and MANIFEST in reason)
    assert store.path_of(2).is_dir(), "evidence is not thrown away"


@pytest.mark.fault(26)
def test_where_all_are_damaged_the_run_does_not_begin_anew(store: CheckpointStore) -> None:
    save(store, 1, 2)
    (store.path_of(1) / "ring.json").write_text("x")
    (store.path_of(2) / MANIFEST).unlink()
    with pytest.raises(UserError) as caught:
        CheckpointStore(store.folder, keep=2).newest()
    assert caught.value.exit_code == 2
    for part in ("step-1: ring.json has 1 bytes", f"step-2: {MANIFEST} is missing\n", "checkpoint.resume=false"):
        assert part in str(caught.value)
    assert "Errno" not in str(caught.value)


def test_a_checkpoint_under_another_number_is_refused(store: CheckpointStore) -> None:
    save(store, 1, 2)
    store.path_of(2).rename(store.path_of(5))
    found = CheckpointStore(store.folder, keep=2).newest()
    assert found.step == 1
    assert "step 2" in found.discarded[0].reason


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", ["../outside", "learner/../../outside", "/etc/hostname"])
def test_a_manifest_reaches_nothing_outside_of_its_checkpoint(store: CheckpointStore, name: str) -> None:
    save(store, 1, 2)
    (store.folder / "outside").write_text("x")
    path = store.path_of(2)
    content = (path / MANIFEST).read_text().replace('"ring.json"', f'"{name}"').encode()
    (path / MANIFEST).write_bytes(content)
    (path / MARKER).write_bytes(manifest._digest(content))
    found = CheckpointStore(store.folder, keep=2).newest()
    assert found.step == 1
    assert "outside of the checkpoint" in found.discarded[0].reason


@pytest.mark.fault(26)
@pytest.mark.parametrize("content", [b"", b"[]", b'{"version": 2, "step": 2, "files": {}}', b"[" * 100_000, b"\xff"])
def test_a_forged_manifest_is_an_error_like_any_other(store: CheckpointStore, content: bytes) -> None:
    save(store, 1, 2)
    (store.path_of(2) / MANIFEST).write_bytes(content)
    (store.path_of(2) / MARKER).write_bytes(manifest._digest(content))
    assert newest_step(store.folder) == 1


# Row 11: killed at every moment of a save.

SAVE_STEP_2 = """
import sys
from pathlib import Path
from gkd_dist.checkpoints.store import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), keep=2)
folder = store.draft(2)
for number in range(3):
    (folder / f"file-{number}").write_bytes(bytes(1000))
store.commit(2)
store.prune()
"""


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    ("moment", "survivor"),
    [
        ("checkpoint.before_files:kill", 1),
        ("checkpoint.between_files:kill@1", 1),
        ("checkpoint.between_files:kill@3", 1),
        ("checkpoint.before_marker:kill", 1),
        ("checkpoint.after_marker:kill", 2),
    ],
)
def test_a_process_killed_during_a_save_leaves_whole_checkpoints_alone(
    store: CheckpointStore, tmp_path: Path, moment: str, survivor: int
) -> None:
    """The witness is the file that the fault point leaves, and the signal."""
    save(store, 1)
    witness = tmp_path / "witness"
    witness.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SAVE_STEP_2, str(store.folder)],
        env={**os.environ, "GKD_FAULTS": moment, "GKD_FAULTS_WITNESS": str(witness), "PYTHONPATH": str(REPOSITORY)},
        timeout=60,
        check=False,
    )
    assert done.returncode == -9
    assert len(names(witness)) == 1
    again = CheckpointStore(store.folder, keep=2)
    assert again.newest().step == survivor
    again.prune()
    assert names(store.folder) == ["step-1", "step-2"][:survivor]
    save(again, 2)
    assert newest_step(store.folder) == 2


def test_a_run_killed_before_its_first_checkpoint_was_whole_has_none(store: CheckpointStore) -> None:
    save(store, 1)
    (store.path_of(1) / MARKER).unlink()
    assert newest_step(store.folder) is None


# Row 31: a full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this machine allows no mount: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.fault(31)
def test_a_full_disk_leaves_the_former_checkpoints_and_no_draft(small_disk: Path) -> None:
    store = CheckpointStore(small_disk, keep=2)
    (store.draft(1) / "file").write_bytes(bytes(1_200_000))
    store.commit(1)
    draft = store.draft(2)
    with pytest.raises(OSError) as caught:
        (draft / "file").write_bytes(bytes(1_200_000))
    assert caught.value.errno == errno.ENOSPC
    store.abandon(2)
    assert names(small_disk) == ["step-1"]
    assert newest_step(small_disk) == 1
    (store.draft(2) / "file").write_bytes(bytes(500_000))
    store.commit(2)
    assert newest_step(small_disk) == 2


@pytest.mark.fault(31)
@pytest.mark.parametrize("place", ["seal", "mark", "flush"])
def test_a_save_that_cannot_be_written_leaves_no_trace(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    save(store, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(store.draft(2), 2)
    with monkeypatch.context() as patch:
        patch.setattr(f"gkd_dist.checkpoints.store.{place}", full)
        with pytest.raises(OSError, match="No space left"):
            store.commit(2)
    assert names(store.folder) == ["step-1"]
    assert newest_step(store.folder) == 1
    save(store, 2)
    assert newest_step(store.folder) == 2


def test_only_plain_files_can_be_saved(store: CheckpointStore, tmp_path: Path) -> None:
    (store.draft(1) / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="link is no plain file"):
        store.commit(1)
    assert names(store.folder) == []


# Retention.


def test_the_newest_good_ones_stay(store: CheckpointStore) -> None:
    save(store, 1, 2, 3)
    assert store.prune() == [store.path_of(1)]
    assert names(store.folder) == ["step-2", "step-3"]
    assert store.prune() == []


def test_the_newest_good_one_that_is_trusted_stays_whatever_its_age(store: CheckpointStore) -> None:
    save(store, 1, 2, 3)
    (store.path_of(3) / "ring.json").unlink()
    again = CheckpointStore(store.folder, keep=2)
    again.trust(3)
    save(again, 4, 5, 6)
    assert again.prune() == [store.path_of(4), store.path_of(3), store.path_of(1)]
    assert names(store.folder) == ["step-2", "step-5", "step-6"]
    again.trust(5)
    assert again.prune() == [store.path_of(2)]
    assert again.set_aside(5) == [store.folder / "void-step-6"]
    assert again.newest().step == 5


def test_damaged_ones_do_not_count_and_go_once_a_newer_one_is_good(store: CheckpointStore) -> None:
    save(store, 1, 2, 3, 4)
    (store.path_of(4) / "ring.json").unlink()
    (store.path_of(2) / "ring.json").unlink()
    again = CheckpointStore(store.folder, keep=2)
    assert again.prune() == [store.path_of(2)]
    assert names(store.folder) == ["step-1", "step-3", "step-4"]
    save(again, 5)
    again.prune()
    assert names(store.folder) == ["step-3", "step-5"]


def test_what_is_newer_than_where_a_run_goes_on_is_set_aside_until_it_is_replaced(store: CheckpointStore) -> None:
    save(store, 1, 2, 3, 4)
    (store.path_of(3) / "ring.json").unlink()
    (store.path_of(4) / MARKER).unlink()
    again = CheckpointStore(store.folder, keep=2)
    assert again.set_aside(1) == [store.folder / "void-step-3", store.folder / "void-step-2"]
    assert names(store.folder) == ["step-1", "step-4", "void-step-2", "void-step-3"], "the last was never finished"
    assert again.newest().step == 1
    again.prune()
    assert names(store.folder) == ["step-1", "void-step-2", "void-step-3"]
    save(again, 2)
    again.prune()
    assert names(store.folder) == ["step-1", "step-2", "void-step-3"]
    assert again.set_aside(1) == [store.folder / "void-step-2"]
    save(again, 3)
    assert again.set_aside(1) == [store.folder / "void-step-3"], "in the place of the former one"


def test_a_good_checkpoint_that_is_objected_to_is_passed_over(store: CheckpointStore) -> None:
    save(store, 1, 2)
    found = store.newest(lambda step, path: f"{path.name} is disliked" if step == 2 else None)
    assert (found.step, found.discarded[0].reason) == (1, "step-2 is disliked")
    with pytest.raises(UserError, match="step-1: never"):
        store.newest(lambda *_: "never")


def test_the_name_of_the_folder_is_flushed_when_it_is_made(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(stores, "flush", flushed.append)
    store.draft(1)
    store.draft(2)
    assert flushed == [store.folder.parent]


def test_while_none_is_good_nothing_finished_goes(store: CheckpointStore) -> None:
    save(store, 1, 2, 3)
    for step in (1, 2, 3):
        (store.path_of(step) / "ring.json").unlink()
    assert CheckpointStore(store.folder, keep=1).prune() == []


def test_drafts_of_processes_that_are_gone_are_removed_and_those_of_others_stay(store: CheckpointStore) -> None:
    save(store, 1)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    own = store.draft(2)
    parents = store.folder / f".step-2.{os.getppid()}.tmp"
    (store.folder / f".step-2.{gone.pid}.tmp").mkdir()
    parents.mkdir()
    assert [path.name for path in store.prune()] == [f".step-2.{gone.pid}.tmp"]
    assert own.is_dir()
    assert parents.is_dir()
    CheckpointStore(store.folder, keep=1).prune()
    assert not own.exists(), "a former process had the id of this one"


def test_what_has_another_name_is_left_alone(store: CheckpointStore) -> None:
    save(store, 1, 2, 3)
    for name in ("step-01", "step-x", "notes", "step-9.bak"):
        (store.folder / name).mkdir()
    store.prune()
    assert names(store.folder) == ["notes", "step-01", "step-2", "step-3", "step-9.bak", "step-x"]
