"""Files that only grow: what a power cut would leave of them."""

import errno
import os
from pathlib import Path

import pytest

from gkd_dist.replay.append_file import AppendFile
from gkd_dist.replay.ledger import DroppedPrompt, Ledger
from gkd_dist.runs.documents import replace_file
from gkd_dist.types import SampleId


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was flushed to the disk, by path."""
    paths: list[Path] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        paths.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


def test_the_name_of_a_new_file_is_flushed_and_that_of_a_known_one_is_not(tmp_path: Path, flushed: list[Path]) -> None:
    path = tmp_path / "journal" / "segment"
    AppendFile(path).append(b"record")
    assert flushed == [path.parent, tmp_path], "the name of the file, and that of its folder"
    flushed.clear()
    again = AppendFile(path)
    again.append(b"record")
    assert flushed == []
    again.sync()
    assert flushed == [path]


def test_a_ledger_that_was_cut_is_flushed_under_its_name(tmp_path: Path, flushed: list[Path]) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(DroppedPrompt(3, SampleId("run-1", 1), "rejected"))
    ledger.close()
    flushed.clear()
    assert ledger.truncate(2) == 1
    assert [path.name.startswith(".ledger.jsonl") for path in flushed] == [True, False]
    assert flushed[-1] == tmp_path, "after the content, the name"


@pytest.mark.parametrize("survives", [True, False])
def test_a_replaced_file_is_flushed_under_its_name_where_it_has_to_survive(
    tmp_path: Path, flushed: list[Path], survives: bool
) -> None:
    replace_file(tmp_path / "state.json", "{}", survives_power_cut=survives)
    assert (tmp_path in flushed) is survives


@pytest.mark.fault(31)
@pytest.mark.parametrize("call", ["fsync", "ftruncate"])
def test_after_a_failure_that_leaves_the_content_unknown_every_call_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A second flush would succeed, although the disk never got what the first was for."""

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    path = tmp_path / "file"
    file = AppendFile(path)
    file.append(b"record")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        if call == "ftruncate":
            patch.setattr(os, "write", fails)
        with pytest.raises(OSError, match="broken"):
            file.sync() if call == "fsync" else file.append(b"half")
    for again in (file.sync, lambda: file.append(b"next")):
        with pytest.raises(OSError, match="an earlier write failed"):
            again()
    file.close()
    AppendFile(path).append(b"next")
    assert path.read_bytes() == b"recordnext"
