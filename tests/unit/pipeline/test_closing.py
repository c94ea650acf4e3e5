"""Letting go of parts: nothing leaks, and cleaning up never hides what went wrong."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from gkd_dist.closing import Closing
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import EngineError, ModelError
from gkd_dist.local import local_fleet
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from tests.fleets import fleet_of


class Stuck(FakeSampler):
    """Does not close."""

    async def close(self) -> None:
        raise EngineError("the sampler does not close")


class StuckTeacher(FakeTeacher):
    async def close(self) -> None:
        raise EngineError("the teacher does not close")


class Blueprint:
    """Hands out prepared parts; an exception in place of one is raised."""

    def __init__(self, *parts: Any) -> None:
        self._parts = list(parts)
        replicas = SimpleNamespace(num_replicas=1, base_url=None)
        self.config = SimpleNamespace(
            sampler=SimpleNamespace(num_replicas=2),
            named_teachers={"teacher": replicas},
            reward=None,
            supervision=SupervisionConfig(),
            max_ongoing_requests=lambda _: 8,
        )

    def make(self, name: str = "") -> Any:
        part = self._parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part

    make_sampler = make_teacher = make_learner = make


async def use(blueprint: Blueprint, error: Exception | None = None) -> None:
    async with local_fleet(blueprint):  # type: ignore[arg-type]
        if error is not None:
            raise error


def test_parts_built_before_one_that_fails_are_closed() -> None:
    samplers = [FakeSampler(), FakeSampler()]
    with pytest.raises(ModelError, match="no teacher"):
        asyncio.run(use(Blueprint(*samplers, ModelError("no teacher"))))
    assert all(sampler.closed for sampler in samplers)


def test_all_parts_are_closed_at_the_end() -> None:
    parts = [FakeSampler(), FakeSampler(), FakeTeacher(), FakeLearner()]
    asyncio.run(use(Blueprint(*parts)))
    assert all(part.closed for part in parts)


def test_the_error_of_the_run_wins_over_that_of_closing(caplog: pytest.LogCaptureFixture) -> None:
    parts = [Stuck(), FakeSampler(), FakeTeacher(), FakeLearner()]
    with pytest.raises(ModelError, match="the cause"):
        asyncio.run(use(Blueprint(*parts), ModelError("the cause")))
    assert all(part.closed for part in parts[1:])
    assert ("WARNING", "the sampler does not close") in [
        (record.levelname, str(record.args[0])) for record in caplog.records if record.args
    ]


def test_an_error_of_closing_is_raised_when_the_run_was_well() -> None:
    parts = [Stuck(), FakeSampler(), FakeTeacher(), FakeLearner()]
    with pytest.raises(EngineError, match="the sampler does not close"):
        asyncio.run(use(Blueprint(*parts)))
    assert all(part.closed for part in parts[1:])


def test_a_fleet_raises_the_first_error_of_closing_and_logs_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    learner = FakeLearner()
    with pytest.raises(EngineError, match="the sampler does not close"):
        asyncio.run(fleet_of([Stuck()], {"teacher": [StuckTeacher()]}, learner).close())
    assert learner.closed
    assert "the teacher does not close" in caplog.text


def test_a_fleet_that_fails_to_close_hides_nothing() -> None:
    async def run() -> None:
        async with Closing(fleet_of([Stuck()], {"teacher": [FakeTeacher()]}, FakeLearner())):
            raise ModelError("the cause")

    with pytest.raises(ModelError, match="the cause"):
        asyncio.run(run())
