"""`gkd experiment` for real: runs on a Ray cluster of its own, stopped, gone on with, damaged and reported."""

import csv
import json
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from gkd_dist.config.yaml_text import format_yaml
from tests.gkd_process import LIMIT_S, GkdProcess

pytestmark = pytest.mark.ray


@pytest.fixture
def experiment(tmp_path: Path, models: dict[str, Path], data: Path) -> Path:
    """A given teacher, two seeds of a student, and a third run whose recipe cannot be carried out."""
    run = {
        "student.model": str(models["student"]),
        "teacher.model": "{stage:teacher}",
        "data.path": str(data),
        "learner.max_steps": "{steps}",
        "checkpoint.save_steps": 2,
    }
    tree = {
        "title": "two students",
        "settings": {"steps": 4},
        "axes": {"method": {"good": None, "bad": {"overrides": {"student.model": str(tmp_path / "nothing")}}}},
        "seeds": [0, 1],
        "evaluations": {
            "greedy": {
                "task": "translation",
                "data": str(data),
                "options": {
                    "fields.prompt": "prompt",
                    "fields.reference": "completion",
                    "decoding.max_new_tokens": 4,
                    "num_rows": 8,
                },
            }
        },
        "stages": {
            "teacher": {"recipe": "tiny", "overrides": {**run, "teacher.model": str(models["student"])}},
            "distil": {
                "over": ["method", "seed"],
                "recipe": "tiny",
                "overrides": run,
                "skip": [{"method": "bad", "seed": "1"}],
                "evaluate": ["greedy"],
            },
        },
        "given": {"teacher": str(models["teacher"])},
        "plots": {"bleu": {"kind": "bars", "title": "BLEU", "metric": "bleu", "x": "method"}},
        "rankings": [{"title": "all", "metric": "bleu"}],
    }
    path = tmp_path / "two.yaml"
    path.write_text(format_yaml(tree))
    return path


class Commands:
    """Starts the command; whatever a test leaves behind is ended with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[GkdProcess] = []

    def __call__(self, arguments: Sequence[str], faults: str = "") -> GkdProcess:
        log = self._folder / f"command-{len(self._started)}.txt"
        environment = {"RAY_TMPDIR": str(self._folder / "ray"), "OMP_NUM_THREADS": "1"}
        command = ["experiment", *arguments, "--output-dir", str(self._folder / "out")]
        self._started.append(GkdProcess(command, log, self._folder, faults, environment))
        return self._started[-1]

    def end(self) -> None:
        for each in self._started:
            each.end()


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("e")  # short: sockets of Ray are below it
    commands = Commands(folder)
    yield commands
    commands.end()


def test_an_experiment_is_stopped_gone_on_with_and_reported(experiment: Path, start: Commands) -> None:
    folder = start._folder / "out" / "two"
    good = folder / "runs" / "distil_good_seed0"
    command = [str(experiment), "steps=120"]
    first = start(command)
    first.until(lambda: any((good / "run-1" / "checkpoints").glob("step-*/COMPLETE")))
    first.send(signal.SIGINT)
    assert first.ended() == 75
    await_none_of(good)
    assert "the same command goes on" in first.said
    assert [part["exit_code"] for part in parts_of(good)] == [75]
    assert states_of(folder)["distil_good_seed0"] == "stopped"

    killed = start(command)
    killed.until(lambda: "continuing" in (good / "log.txt").read_text())
    killed.send(signal.SIGKILL)
    assert killed.ended() == -signal.SIGKILL
    await_none_of(good)  # it could not clean up: the kernel ends what it started

    last = start(command)
    assert last.ended() == 70  # one run cannot be done; the others are
    assert [(part["part"], part["exit_code"]) for part in parts_of(good)] == [
        ("train", 75),
        ("train", 0),
        ("greedy", 0),
    ]
    told = last.said.partition("missing: distil_bad_seed0: train ended with exit code 2")[2]
    assert "student.model" in told  # the end of its log
    assert states_of(folder) == {
        "teacher": "done",
        "distil_good_seed0": "done",
        "distil_good_seed1": "done",
        "distil_bad_seed0": "failed",
    }
    with (folder / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "bleu"]
    assert [row["seed"] for row in rows] == ["0", "1", "mean"]
    assert (folder / "bleu.svg").stat().st_size > 0
    content = json.loads((folder / "results.json").read_text())
    assert (content["runs"], content["finished"]) == (4, 3)
    assert content["cpu_s"] == pytest.approx(sum(part["cpu_s"] for part in all_parts(folder)), abs=0.1)

    changed = start([str(experiment), "steps=5"])
    assert changed.ended() == 2
    assert "learner.max_steps: there 120, here 5" in changed.said

    again = start([*command, "axes.method=[good]"])
    assert again.ended() == 0
    assert "3 runs, 3 finished" in again.said
    assert len(parts_of(good)) == 3


def await_none_of(run: Path) -> None:
    """Until no process works on the run any more; commands have sessions of their own, which `ended` does not see."""
    end = time.monotonic() + LIMIT_S
    while left := [words for words in map(command_line, psutil.process_iter()) if str(run) in words]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def parts_of(run: Path) -> list[dict[str, Any]]:
    return json.loads((run / "run.json").read_text())["parts"]


def all_parts(folder: Path) -> list[dict[str, Any]]:
    return [part for record in folder.glob("runs/*/run.json") for part in parts_of(record.parent)]


def states_of(folder: Path) -> dict[str, str]:
    runs = json.loads((folder / "experiment.json").read_text())["runs"]
    return {name: run["state"] for name, run in runs.items()}
