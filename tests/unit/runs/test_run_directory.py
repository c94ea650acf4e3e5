"""Folders of runs: numbering, finding, what is finished and what can be continued."""

from pathlib import Path

import pytest

from gkd_dist.checkpoints.manifest import MARKER
from gkd_dist.errors import ConfigError, RunError
from gkd_dist.runs.run_directory import COMPLETE, RunDirectory, check_output_dir


def make(root: Path, name: str = "r") -> RunDirectory:
    directory = RunDirectory.create(root, name)
    directory.write_config("name: r\n")
    return directory


def test_runs_are_listed_from_the_newest_and_names_are_not_mixed_up(tmp_path: Path) -> None:
    for _ in range(11):
        make(tmp_path)
    for name in ("r-1", "other", "r.x"):
        make(tmp_path, name)
    (tmp_path / "r-99").write_text("a file")
    assert [run.name for run in RunDirectory.all_of(tmp_path, "r")] == [f"r-{number}" for number in range(11, 0, -1)]
    assert [run.name for run in RunDirectory.all_of(tmp_path, "r-1")] == ["r-1-1"]
    assert RunDirectory.all_of(tmp_path / "none", "r") == []


def test_a_run_is_found_by_path_by_name_and_as_the_latest(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    assert RunDirectory.find("r-1", tmp_path).path == first.path
    assert RunDirectory.find(str(first.path), tmp_path / "elsewhere").path == first.path
    assert RunDirectory.find("latest", tmp_path).path == second.path
    first.point_latest()
    assert RunDirectory.find("latest", tmp_path).name == "r-1"
    with pytest.raises(RunError, match=r"r-3: neither a run directory nor .*; there are latest, r-1, r-2"):
        RunDirectory.find("r-3", tmp_path)
    with pytest.raises(RunError, match="neither a run directory nor the name of one below"):
        RunDirectory.find("r-1", tmp_path / "none")


def test_of_two_starts_that_point_to_themselves_at_once_neither_fails_and_latest_is_there_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make(tmp_path), make(tmp_path)
    symlink, meanwhile = Path.symlink_to, [first]

    def slow(link: Path, target: str) -> None:
        assert (tmp_path / "latest").is_symlink()
        for other in meanwhile[:]:
            meanwhile.clear()
            other.point_latest()
        symlink(link, target)

    monkeypatch.setattr(Path, "symlink_to", slow)
    second.point_latest()
    assert not meanwhile
    assert RunDirectory.find("latest", tmp_path).path == second.path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "r-1", "r-2"]


def test_what_is_called_latest_and_is_no_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    make(tmp_path)
    assert not (tmp_path / "latest").is_symlink()


def test_only_a_checkpoint_that_was_written_to_its_end_counts(tmp_path: Path) -> None:
    assert COMPLETE == MARKER
    run = make(tmp_path)
    assert run.last_checkpoint is None
    for folder in ("step-9", "step-40", "step-100", "step-x", "tmp-step-200"):
        (run.checkpoints / folder).mkdir(parents=True)
        if folder != "step-100":
            (run.checkpoints / folder / COMPLETE).touch()
    assert run.last_checkpoint == 40


def test_the_summary_is_the_mark_of_a_finished_run(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert not run.is_finished
    run.write_summary({"steps": 3})
    assert run.is_finished
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "summary.json"]


@pytest.mark.parametrize("folder", ["here", "here/is/none", "runs"])
def test_a_check_of_the_output_folder_leaves_nothing_behind(tmp_path: Path, folder: str) -> None:
    (tmp_path / "runs" / "r-1").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    check_output_dir(tmp_path / folder)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("folder", ["/proc/runs", "/proc/below/runs"])
def test_an_output_folder_on_a_file_system_that_takes_none_is_refused(folder: str) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("this machine has no /proc")
    with pytest.raises(ConfigError, match=r"output_dir: .* (not writable|cannot be written)"):
        check_output_dir(Path(folder))


def test_an_output_folder_whose_name_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        check_output_dir(tmp_path / ("x" * 300))
    assert not any(tmp_path.iterdir())
