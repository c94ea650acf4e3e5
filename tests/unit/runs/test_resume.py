"""Which run a command goes on with, and when it refuses to."""

from pathlib import Path

import pytest

from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError, RunError
from gkd_dist.runs import lease
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.lock import Holder
from gkd_dist.runs.resume import find_continuation, without_configuration
from gkd_dist.runs.run_directory import COMPLETE, RunDirectory

MODELS = ("student.model=s", "teacher.model=t")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def config(root: Path, *overrides: str) -> RunConfig:
    return load_run_config("tiny", (*MODELS, f"output_dir={root}", "learner.max_steps=60", *overrides))


def begun(settings: RunConfig, *steps: int) -> RunDirectory:
    directory = RunDirectory.create(settings.output_dir, settings.name)
    directory.write_config(dump_run_config(settings))
    for step in steps:
        (directory.checkpoints / f"step-{step}").mkdir(parents=True)
        (directory.checkpoints / f"step-{step}" / COMPLETE).touch()
    return directory


def test_the_same_command_goes_on_with_the_newest_unfinished_run(root: Path) -> None:
    assert find_continuation(config(root)) is None
    begun(config(root), 10)
    newest = begun(config(root), 20, 40)
    begun(config(root))  # died before its first checkpoint
    found = find_continuation(config(root))
    assert found is not None
    assert (found.directory.path, found.step) == (newest.path, 40)
    assert found.line(2) == f"continuing {newest.path} (attempt 2); newest checkpoint: step 40"
    assert find_continuation(config(root, "checkpoint.resume=false")) is None
    assert find_continuation(config(root, "name=other")) is None


def test_a_finished_run_is_not_gone_on_with(root: Path) -> None:
    begun(config(root), 60).write_summary({})
    assert find_continuation(config(root)) is None


@pytest.mark.fault(27)
def test_every_difference_is_listed_and_a_new_run_is_one_key_away(root: Path) -> None:
    directory = begun(config(root), 40)
    with pytest.raises(ConfigError) as caught:
        find_continuation(config(root, "seed=3", "objective.student_fraction=0.25", "learner.max_steps=30"))
    first, *problems, last = caught.value.problems
    assert first == f"{directory.path} has a checkpoint at step 40, but cannot go on with this configuration:"
    assert problems == [
        "seed: there 0, here 3",
        f"objective.student_fraction: there {config(root).objective.student_fraction}, here 0.25",
        "learner.max_steps: there 40 steps are done, here 30",
    ]
    assert "checkpoint.resume=false" in last


@pytest.mark.fault(27)
def test_a_whole_section_that_came_or_went_is_a_difference(root: Path) -> None:
    begun(config(root), 40)
    with pytest.raises(ConfigError, match=r'student.lora: there null, here \{"r": 4'):
        find_continuation(config(root, "student.lora.r=4"))
    with pytest.raises(ConfigError, match="teachers: there null, here"):
        find_continuation(
            load_run_config(
                "tiny",
                ("student.model=s", "teacher=null", "teachers.a.model=t", f"output_dir={root}", "learner.max_steps=60"),
            )
        )


def test_where_and_how_long_a_run_goes_may_change(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(config(root), 40)
    monkeypatch.chdir(root.parent)
    found = find_continuation(
        config(
            Path("runs"), "learner.max_steps=80", "metrics.port=null", "cluster.request_timeout_s=100",
            "supervision.max_restarts=1", "checkpoint.save_steps=7", "teacher.max_replicas=4", "sampler.num_replicas=2",
            "cluster.mode=ray",
        )
    )  # fmt: skip
    assert found is not None and found.step == 40
    assert "learner.max_steps 60 -> 80" in found.changes
    assert "sampler.num_replicas 1 -> 2" in found.changes
    assert "; changed: " in found.line(2)
    fewer = find_continuation(config(root, "learner.max_steps=40"))
    assert fewer is not None and fewer.changes == ("learner.max_steps 60 -> 40",)


def test_a_configuration_of_another_version_is_a_difference(root: Path) -> None:
    directory = begun(config(root), 40)
    directory.write_config(dump_run_config(config(root)) + "from_the_future: 1\n")
    with pytest.raises(ConfigError, match=r"its config.yaml is not one of this version: .*from_the_future"):
        find_continuation(config(root))


@pytest.mark.fault(27)
def test_a_run_that_lost_its_configuration_is_not_left_in_silence(root: Path) -> None:
    begun(config(root), 10)
    lost = begun(config(root), 20)
    lost.config.unlink()
    begun(config(root)).config.unlink()  # nothing is lost with it
    found = find_continuation(config(root))
    assert found is not None and found.step == 10
    (line,) = without_configuration(config(root), found)
    assert line.startswith(
        f"{lost.path} is not finished and has a checkpoint at step 20, but its config.yaml is missing"
    )
    assert f"going on with {found.directory.name}" in line and "put the file back" in line
    assert "starting anew" in without_configuration(config(root), None)[0]
    assert without_configuration(config(root, "checkpoint.resume=false"), None) == []
    lost.write_config(dump_run_config(config(root)))
    found = find_continuation(config(root))
    assert found is not None and without_configuration(config(root), found) == []


@pytest.mark.fault(18)
def test_the_same_command_is_refused_while_it_runs_and_another_is_not(root: Path) -> None:
    for steps in ((), (20,)):
        directory = begun(config(root), *steps)
        with Attempt(directory):
            with pytest.raises(RunError, match=f"{directory.path}: in use by process"):
                find_continuation(config(root))
            assert find_continuation(config(root, "seed=1")) is None
            assert find_continuation(config(root, "checkpoint.resume=false")) is None
    found = find_continuation(config(root))
    assert found is not None and found.directory.path == directory.path


@pytest.mark.fault(16)
def test_the_next_head_goes_on_with_the_run_of_the_one_that_was_lost(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = begun(config(root), 20)
    lost = Holder(run_epoch="000001-0001-a", host="head-a", pid=1, started_at="then")
    directory.lock.write_text(lost.model_dump_json())
    monkeypatch.setattr(lease, "LEASE_S", 0.5)
    found = find_continuation(config(root))
    assert found is not None and found.directory.path == directory.path
    with Attempt(directory) as attempt:
        assert attempt.number == 2


def test_a_run_that_was_left_for_a_newer_one_refuses_nothing_and_can_still_be_gone_on_with(root: Path) -> None:
    left = begun(config(root, "seed=1"), 40)
    begun(config(root, "seed=2"), 60).write_summary({})
    assert find_continuation(config(root, "seed=3")) is None
    found = find_continuation(config(root, "seed=1"))
    assert found is not None and found.directory.path == left.path
