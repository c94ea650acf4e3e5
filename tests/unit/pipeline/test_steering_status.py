"""What a job shows of its processes."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gkd_dist.config.load import load_run_config
from gkd_dist.interfaces import SlotView
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.stage import Stage
from gkd_dist.pipeline.steering import Steering
from gkd_dist.runs.status import ProcessStatus, Status
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeReward, FakeSampler, FakeTeacher
from tests.fleets import fleet_of
from tests.run_directories import make_run


def status_of(tmp_path: Path, fleet: Any, journal: Any = None) -> Status:
    directory = make_run(tmp_path)
    accounts = StepAccounts(max_steps=4, metrics=FakeMetrics(), sinks=[])
    config = load_run_config(str(directory.config))
    return Steering(config, directory, fleet, accounts, Stage(), 1, journal=journal).status()


class ElsewhereLearner(FakeLearner):
    places = ({"pid": 4, "node": "a"}, {"pid": 3, "node": "b"})


class ElsewhereReward:
    """Its pool."""

    slots = (SlotView(0, "healthy", 0, {"pid": 9, "node": "b"}),)


class ElsewhereJournal:
    places = ({"pid": 7, "node": "a"},)


def test_every_process_of_a_run_on_a_cluster_is_shown(tmp_path: Path) -> None:
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, ElsewhereLearner())
    fleet = replace(fleet, reward=ElsewhereReward(), node="a")
    seen = status_of(tmp_path, fleet, ElsewhereJournal())
    assert seen.learners == (ProcessStatus(pid=4, node="a"), ProcessStatus(pid=3, node="b"))
    assert (seen.reward, seen.journal) == (ProcessStatus(pid=9, node="b"), ProcessStatus(pid=7, node="a"))
    assert seen.node == "a"
    assert datetime.fromisoformat(seen.at).utcoffset() == timedelta(0)
    assert Status.model_validate_json(seen.model_dump_json()) == seen


def test_what_is_in_the_process_of_the_controller_is_not_shown_again(tmp_path: Path) -> None:
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner(), FakeReward())
    seen = status_of(tmp_path, fleet)
    assert (seen.learners, seen.reward, seen.journal, seen.node) == ((), None, None, None)
