"""Experiment trackers: real ones where they are installed, their names and numbers, and that none ends a run."""

import json
import logging
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.build.trackers import check_trackers, make_trackers
from gkd_dist.cli import main
from gkd_dist.config.load import load_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError
from gkd_dist.metrics.trackers import Tracker, numbers_of
from tests import tiny
from tests.tiny_runs import arguments, records, save_pairs

RECORD = {"step": 3, "loss": 0.5, "grad_norm": float("nan"), "note": "text", "skipped": 0}


def asking_for(*names: str) -> RunConfig:
    return load_run_config("tiny", ["student.model=s", "teacher.model=t", f"metrics.report_to=[{','.join(names)}]"])


@pytest.fixture
def run(tmp_path: Path) -> list[str]:
    """Arguments of a run of four steps."""
    models = {"student": tiny.save_causal(tmp_path / "s", seed=1), "teacher": tiny.save_causal(tmp_path / "t", seed=2)}
    return ["run", *arguments(models, save_pairs(tmp_path / "pairs.jsonl"), tmp_path / "runs")]


def test_a_tracker_gets_finite_numbers_by_their_own_names() -> None:
    assert numbers_of(RECORD) == {"loss": 0.5, "skipped": 0.0}


def test_tensorboard_has_what_the_lines_have(run: list[str], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main([*run, "metrics.report_to=[tensorboard]", "evaluation.enabled=false"]) == 0
    events = accumulator.EventAccumulator(
        str(tmp_path / "runs" / "latest" / "tensorboard"), size_guidance={"scalars": 0}
    )
    events.Reload()
    lines = records(tmp_path / "runs")
    numbers = {name for line in lines for name in numbers_of(line)}
    assert set(events.Tags()["scalars"]) == numbers
    for name in sorted(numbers):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]
        assert found == expected, name


def test_wandb_offline_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "tiny-1"
    folder.mkdir()
    (sink,) = make_trackers(asking_for("wandb"), folder)
    for step in range(3):
        sink.write({"step": step, "loss": 1.0 / (step + 1)})
    sink.close()
    (file,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    end = time.monotonic() + 30  # its own process writes
    while not all(name in file.read_bytes() for name in (b"loss", b"student_fraction")):
        assert time.monotonic() < end, file.read_bytes()
        time.sleep(0.1)


def test_trackio_keeps_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With trackio's own package where it is installed."""
    pytest.importorskip("trackio")
    import sqlite3

    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    (sink,) = make_trackers(asking_for("trackio"), tmp_path / "tiny-1")
    for step in range(3):
        sink.write({"step": step, "loss": 1.0 / (step + 1)})
    sink.close()
    (file,) = (tmp_path / "trackio").rglob("gkd*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == [0, 1, 2]
    assert [json.loads(text)["loss"] for _, text in rows] == [1.0, 0.5, pytest.approx(1 / 3)]


class Interface(types.ModuleType):
    """A tracker's package as far as it is used: what `init`, `log` and `finish` were told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[Any] = []

    def init(self, **settings: Any) -> "Interface":
        self.told.append(settings)
        return self

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.told.append((step, numbers))

    def finish(self) -> None:
        self.told.append("finished")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_tells_a_tracker_every_step(
    name: str, run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Interface(name)
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.delitem(sys.modules, f"gkd_dist.metrics.{name}_sink", raising=False)
    assert main([*run, f"metrics.report_to=[{name}]", "evaluation.enabled=false"]) == 0
    settings, *steps, end = package.told
    assert (settings["project"], settings["name"], settings["resume"]) == ("gkd", "tiny-1", "allow")
    assert settings["config"]["learner"]["max_steps"] == 4
    assert steps == [(line["step"], numbers_of(line)) for line in records(tmp_path / "runs")]
    assert end == "finished"
    monkeypatch.delitem(sys.modules, f"gkd_dist.metrics.{name}_sink")  # it holds the package of this test


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_tracker_is_refused_before_anything_loads(
    name: str, run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [each for each in sys.modules if each.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"gkd_dist.metrics.{name}_sink", raising=False)
    assert main([*run, f"metrics.report_to=[{name}]"]) == 2
    assert f"metrics.report_to: {name} needs the package {name}; pip install {name}" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_broken_tracker_is_refused_before_anything_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "trackio.py").write_text("raise AttributeError('numpy has no such thing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.delitem(sys.modules, "gkd_dist.metrics.trackio_sink", raising=False)
    with pytest.raises(ConfigError, match=r"trackio is broken .*no such thing.*pip install --force-reinstall trackio"):
        check_trackers(asking_for("trackio"))


def test_a_tracker_that_does_not_start_closes_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good, bad = Interface("trackio"), Interface("wandb")
    monkeypatch.setattr(bad, "init", lambda **_: 1 / 0, raising=False)
    for package in (good, bad):
        monkeypatch.setitem(sys.modules, package.__name__, package)
        monkeypatch.delitem(sys.modules, f"gkd_dist.metrics.{package.__name__}_sink", raising=False)
    with pytest.raises(ConfigError, match=r"wandb does not start .*division by zero"):
        make_trackers(asking_for("trackio", "wandb"), tmp_path)
    assert good.told[-1] == "finished"
    for package in (good, bad):
        monkeypatch.delitem(sys.modules, f"gkd_dist.metrics.{package.__name__}_sink")


class Failing:
    def __init__(self) -> None:
        self.num_asked = 0

    def write(self, record: dict[str, Any]) -> None:
        self.num_asked += 1
        raise ConnectionError("the server is gone")

    def close(self) -> None:
        raise ConnectionError("the server is gone")


@pytest.mark.fault(47)
def test_what_fails_in_mid_run_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sink = Failing()
    tracker = Tracker("wandb", sink)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            tracker.write(RECORD)
        tracker.close()
    assert sink.num_asked == 3
    assert "it is told nothing more" in caplog.text
    assert "wandb could not be closed" in caplog.text


def test_a_tracker_is_named_once() -> None:
    with pytest.raises(ConfigError, match="names a tracker twice"):
        asking_for("wandb", "wandb")
