"""An evaluation of an experiment is done again by the real `gkd eval`: other options, or an end in between."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gkd_dist import evaluating
from gkd_dist.cli import main
from gkd_dist.experiments.plan import expand
from gkd_dist.experiments.schedule import Schedule
from gkd_dist.experiments.spec import Experiment
from gkd_dist.experiments.survey import survey
from tests.tiny import save_t5
from tests.tiny_runs import save_pairs


@dataclass(frozen=True)
class Ending:
    exit_code: int
    wall_s: float = 1.0
    cpu_s: float = 1.0


class InThisProcess:
    """A launcher, and its only seat."""

    num_cpus = 1.0
    num_gpus = 0.0

    @asynccontextmanager
    async def seat(self, num_cpus: float, num_gpus: float) -> AsyncIterator["InThisProcess"]:
        yield self

    async def run(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Ending:
        return Ending(await asyncio.to_thread(main, list(command)[3:]))

    async def stop(self) -> None: ...


def experiment(folder: Path, num_rows: int) -> Experiment:
    options = {
        "fields.reference": "completion",
        "num_rows": num_rows,
        "decoding.max_new_tokens": 2,
        "num_resamples": 100,
    }
    return Experiment.model_validate(
        {
            "title": "test",
            "evaluations": {
                "greedy": {"task": "translation", "data": str(folder / "data.jsonl"), "options": options},
            },
            "stages": {"model": {"recipe": "tiny", "evaluate": ["greedy"]}},
            "given": {"model": str(folder / "t5")},
        }
    )


def states(folder: Path, num_rows: int) -> dict[str, str]:
    out = folder / "out"
    schedule = Schedule(survey(expand(experiment(folder, num_rows), out), out), InThisProcess())
    asyncio.run(schedule.carry_out(asyncio.Event()))
    return {**schedule.states, **schedule.failures}


def test_other_options_and_an_end_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_t5(tmp_path / "t5")
    save_pairs(tmp_path / "data.jsonl")
    evaluations = tmp_path / "out" / "runs" / "model" / "evaluations"

    def full(*arguments: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(evaluating, "_content", full)  # the text is written by then, the figures are not
        assert states(tmp_path, num_rows=3)["model"] != "done"
    assert [path.name for path in evaluations.iterdir()] == ["greedy.draft"]

    for num_rows in (3, 4):
        assert states(tmp_path, num_rows) == {"model": "done"}
        results = json.loads((evaluations / "greedy" / "results.json").read_text())
        assert results["num_rows"] == num_rows
        assert len((evaluations / "greedy" / "predictions.jsonl").read_text().splitlines()) == num_rows
    former = evaluations.parent / "former" / "greedy" / "results.json"
    assert json.loads(former.read_text())["num_rows"] == 3
    assert [path.name for path in evaluations.iterdir()] == ["greedy"]
