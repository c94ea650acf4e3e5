"""What runs and evaluations read counts by its content; records that do not know of it are completed."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gkd_dist import __version__
from gkd_dist.errors import RunError
from gkd_dist.experiments.contents import Contents, named_files
from gkd_dist.experiments.identity import identities
from gkd_dist.experiments.plan import PlannedRun, expand
from gkd_dist.experiments.spec import Experiment
from gkd_dist.experiments.survey import move_changed, note_inputs
from tests.workshop import Workshop, carry_out, standings


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the experiment is; beside it are its files."""
    (tmp_path / "train.jsonl").write_text("train")
    (tmp_path / "test.jsonl").write_text("test")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "model.safetensors").write_text("weights")
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def experiment(out: Path, **changes: Any) -> Experiment:
    """A given model, a teacher, what it writes, and a student of that text, which names no file itself."""
    given, train = str(out.parent / "given"), str(out.parent / "train.jsonl")
    models = {"student.model": "m", "teacher.model": "m", **changes}
    return Experiment.model_validate(
        {
            "title": "test",
            "evaluations": {"greedy": {"task": "translation", "data": str(out.parent / "test.jsonl")}},
            "stages": {
                "init": {"recipe": "tiny"},
                "teacher": {"recipe": "tiny", "overrides": {**models, "data.path": train}, "evaluate": ["greedy"]},
                "written": {"command": ["generate", "{stage:teacher}", "output={output}"], "output": "written"},
                "distil": {
                    "recipe": "tiny",
                    "overrides": {**models, "data.path": "{stage:written}"},
                    "evaluate": ["greedy"],
                },
                "other": {"recipe": "tiny", "overrides": {**models, "student.model": given}, "evaluate": ["greedy"]},
            },
            "given": {"init": given},
        }
    )


def commands(out: Path, **changes: Any) -> list[str]:
    """What is carried out, as `run teacher` and the like."""
    workshop = Workshop()
    schedule = carry_out(out, workshop, experiment(out, **changes))
    assert set(schedule.states.values()) == {"done"}, schedule.failures
    return [f"{call[0]} {_run_of(call)}" for call in workshop.calls]


def _run_of(call: list[str]) -> str:
    place = next(word for word in call if "output" in word and "/runs/" in word)
    return place.partition("/runs/")[2].partition("/")[0]


def write(path: Path, text: str) -> None:
    """Another time of change, whatever the clock of the file system."""
    path.write_text(text)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def test_other_rows_are_another_run_and_so_is_all_that_reads_from_it(out: Path) -> None:
    assert len(commands(out)) == 4 + 3  # commands, evaluations
    write(out.parent / "train.jsonl", "other")
    with pytest.raises(RunError, match=r"train\.jsonl: its content has changed"):
        standings(out, experiment(out))
    moved = move_changed(expand(experiment(out), out), out)
    assert [path.name.rpartition("-")[0] for path in moved] == ["teacher", "written", "distil"]
    assert commands(out) == ["run teacher", "eval teacher", "generate written", "run distil", "eval distil"]


def test_other_weights_of_a_given_model_are_another_run(out: Path) -> None:
    commands(out)
    write(out.parent / "given" / "model.safetensors", "others.")
    moved = move_changed(expand(experiment(out), out), out)
    assert [path.name.rpartition("-")[0] for path in moved] == ["other"]


def test_other_test_rows_are_evaluated_again_and_not_trained(out: Path) -> None:
    commands(out)
    write(out.parent / "test.jsonl", "other")
    assert sorted(commands(out)) == ["eval distil", "eval other", "eval teacher"]
    assert commands(out) == []


def test_how_a_run_measures_itself_counts_where_it_does(out: Path) -> None:
    off = {"evaluation.enabled": False}
    commands(out, **off)
    assert commands(out, **off, **{"evaluation.num_samples_shown": 2}) == []
    with pytest.raises(RunError, match=r"evaluation\.enabled: there false, here true"):
        commands(out)


def test_settings_of_what_a_run_measures_are_told(out: Path) -> None:
    commands(out, **{"evaluation.enabled": True})
    with pytest.raises(RunError, match=r"evaluation\.num_samples_shown: there 3, here 2"):
        commands(out, **{"evaluation.enabled": True, "evaluation.num_samples_shown": 2})


def records(out: Path) -> Iterator[Path]:
    yield from out.glob("runs/*/run.json")


def test_records_of_a_former_version_are_taken_and_completed(out: Path) -> None:
    commands(out)
    for path in records(out):
        record = json.loads(path.read_text())
        assert {part["version"] for part in record["parts"]} == {__version__}
        for part in record["parts"]:
            del part["version"]
        del record["inputs"]
        path.write_text(json.dumps(record))
    found = standings(out, experiment(out))
    assert all(each.is_done for each in found)
    note_inputs(found)
    write(out.parent / "test.jsonl", "other")
    assert [len(each.evaluations) for each in standings(out, experiment(out)) if each.run.evaluations] == [1, 1, 1]
    write(out.parent / "train.jsonl", "other")
    with pytest.raises(RunError, match=r"^3 run\(s\) were begun"):
        standings(out, experiment(out))


def test_a_key_that_a_later_version_adds_and_nobody_sets_changes_no_run(out: Path) -> None:
    plan = expand(experiment(out), out)

    def with_new(value: int | None) -> list[PlannedRun]:
        return [replace(run, config={**run.config, "new": value}) for run in plan]

    assert identities(with_new(None), out) == identities(plan, out)
    assert identities(with_new(1), out).items().isdisjoint(identities(plan, out).items())


def test_options_that_come_back_are_evaluated_again(out: Path) -> None:
    """What is in the folder by then is of the other options."""
    first = experiment(out)
    other = first.evaluations["greedy"].model_copy(update={"task": "summarisation"})
    second = first.model_copy(update={"evaluations": {"greedy": other}})
    carry_out(out, Workshop(), first)
    carry_out(out, Workshop(), second)
    carry_out(out, Workshop(), first)
    results = json.loads((out / "runs/teacher/evaluations/greedy/results.json").read_text())
    assert "translation" in results
    assert sorted(path.name for path in (out / "runs/teacher/former").iterdir()) == ["greedy", "greedy-2"]


def test_a_file_is_read_once_while_its_size_and_time_stay(out: Path) -> None:
    file, memory = out.parent / "train.jsonl", out / "contents.json"
    first = Contents(memory)
    before = first.digests([file])
    first.keep()
    state = file.stat()
    file.write_text("drain")  # as long
    os.utime(file, ns=(0, state.st_mtime_ns))
    assert Contents(memory).digests([file]) == before
    write(file, "drain")
    assert Contents(memory).digests([file]) != before
    memory.write_text("{ damaged")
    assert Contents(memory).digests([file, out / "none"]).keys() == {str(file)}


def test_a_folder_is_its_names_and_contents(out: Path) -> None:
    given = out.parent / "given"
    before = Contents(out / "none").digests([given])
    (given / ".cache").mkdir()
    (given / ".cache" / "lock").write_text("")
    assert Contents(out / "none").digests([given]) == before
    (given / "model.safetensors").rename(given / "other.safetensors")
    assert Contents(out / "none").digests([given]) != before


def test_files_are_found_in_texts_but_not_below_the_experiment(out: Path) -> None:
    (out / "made").write_text("")
    train, given = out.parent / "train.jsonl", out.parent / "given"
    value = {"a": [str(train), {"b": f"data.path={given}"}], "c": str(out / "made"), "d": "x" * 9999, "e": "\0", "f": 3}
    assert set(named_files(value, out)) == {train, given}
