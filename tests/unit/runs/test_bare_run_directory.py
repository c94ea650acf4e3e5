"""A run directory is made for each run, and goes away with a run that never began."""

from pathlib import Path

from gkd_dist.runs.run_directory import RunDirectory


def started(folder: Path) -> RunDirectory:
    directory = RunDirectory.create(folder, "run")
    directory.write_config("seed: 1\n")
    directory.write_versions()
    directory.metrics.touch()
    return directory


def test_a_run_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    started(tmp_path / "runs").discard_if_bare()
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_latest_run_is_the_one_before(tmp_path: Path) -> None:
    first, second = started(tmp_path), started(tmp_path)
    assert (tmp_path / "latest").resolve() == second.path
    second.discard_if_bare()
    assert (tmp_path / "latest").resolve() == first.path
    assert started(tmp_path).path == second.path  # its number is free again


def test_a_run_with_a_step_stays(tmp_path: Path) -> None:
    directory = started(tmp_path)
    directory.metrics.write_text("{}\n")
    directory.discard_if_bare()
    assert directory.metrics.is_file()


def test_a_run_with_a_checkpoint_stays(tmp_path: Path) -> None:
    directory = started(tmp_path)
    (directory.checkpoints / "step-1").mkdir(parents=True)
    directory.discard_if_bare()
    assert (tmp_path / "latest").resolve() == directory.path
