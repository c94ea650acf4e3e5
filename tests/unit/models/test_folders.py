import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.errors import ModelError
from gkd_dist.models.folders import MANIFEST_NAME, cache_key, cached, default_cache_dir, is_whole, write_whole


def write_weights(folder: Path) -> Mapping[str, Any]:
    (folder / "weights").write_bytes(b"12345")
    return {"origin": "test"}


def build_and_count(target: Path, log: Path) -> None:
    def write(folder: Path) -> Mapping[str, Any]:
        with log.open("a") as stream:
            stream.write("built\n")
        return write_weights(folder)

    cached(target, write)


def test_folder_appears_with_manifest(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    write_whole(target, write_weights)
    assert sorted(path.name for path in target.iterdir()) == [MANIFEST_NAME, "weights"]
    assert is_whole(target)
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_an_empty_folder_is_filled_and_a_filled_one_refused(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    write_whole(target, write_weights)
    with pytest.raises(ModelError, match="not empty"):
        write_whole(target, write_weights)


def test_a_crash_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "model", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_between_write_and_rename_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> Path:
        assert (self / MANIFEST_NAME).is_file()
        raise OSError("power cut")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ModelError, match="power cut"):
        write_whole(tmp_path / "model", write_weights)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_build_are_removed_by_the_next(tmp_path: Path) -> None:
    leftover = tmp_path / ".model.0123.partial"
    leftover.mkdir()
    (leftover / "weights").write_bytes(b"12")
    cached(tmp_path / "model", write_weights)
    assert not leftover.exists()
    assert is_whole(tmp_path / "model")


def test_a_second_call_does_not_build(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for _ in range(2):
        build_and_count(tmp_path / "model", log)
    assert log.read_text() == "built\n"


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_a_damaged_folder_is_built_again(tmp_path: Path, damage: str) -> None:
    target = cached(tmp_path / "model", write_weights)
    if damage == "truncate":
        (target / "weights").write_bytes(b"1")
    elif damage == "remove":
        (target / "weights").unlink()
    else:
        (target / MANIFEST_NAME).write_text("{")
    assert not is_whole(target)
    assert (cached(target, write_weights) / "weights").read_bytes() == b"12345"


def test_racing_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    racers = [context.Process(target=build_and_count, args=(tmp_path / "model", log)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 4
    assert log.read_text() == "built\n"
    assert is_whole(tmp_path / "model")


def test_an_unwritable_cache_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="GKD_CACHE_DIR"):
        cached(tmp_path / "file" / "model", write_weights)


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GKD_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "gkd_dist"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "gkd_dist"
    monkeypatch.setenv("GKD_CACHE_DIR", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"


def test_cache_key_changes_with_any_fact() -> None:
    assert cache_key({"a": 1, "b": 2}) == cache_key({"b": 2, "a": 1})
    assert cache_key({"a": 1}) != cache_key({"a": 2})
