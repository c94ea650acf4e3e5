"""Where the time of a step went, on a clock that moves when the parts say so."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.time_spent import TimeSpent
from gkd_dist.replay.ledger import Ledger
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeSink, FakeTeacher
from gkd_dist.types import Prompt, SamplingParams, StepReport, TrainBatch, Trajectory, WeightPublication
from tests.fleets import fleet_of
from tests.rings import make_plan


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FarSampler(FakeSampler):
    """2 s of an answer are work and 0.5 s the way; of 0.8 s of a load 0.6 are work, 0.2 of them paused."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.spent: dict[str, float] = {}

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        self.clock.now += 2.5
        self.spent |= {"sample": 2.0}
        return await super().sample(prompts, params)

    async def load_weights(self, publication: WeightPublication) -> int:
        self.clock.now += 0.8
        self.spent |= {"load": 0.6, "load_paused": 0.2}
        return await super().load_weights(publication)

    def time_spent(self) -> Mapping[str, float]:
        spent, self.spent = self.spent, {}
        return spent


class SlowTeacher(FakeTeacher):
    """Does not say what its answers take."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Any]:
        self.clock.now += 0.25
        return await super().score(trajectories)


class SlowLearner(FakeLearner):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    async def train(self, batch: TrainBatch) -> StepReport:
        self.clock.now += 4.0
        return replace(await super().train(batch), seconds={"forward": 1.0, "head": 0.5, "optimizer": 2.25})

    async def publish(self) -> WeightPublication:
        self.clock.now += 0.3
        return await super().publish()


class SlowLedger(Ledger):
    """All that nobody else does."""

    clock: Clock

    def append(self, entry: Any) -> None:
        self.clock.now += 0.125
        super().append(entry)


def records(folder: Path, num_steps: int = 3) -> list[dict[str, Any]]:
    clock, cpu, sink = Clock(), iter(range(100)), FakeSink()
    fleet = fleet_of([FarSampler(clock)], {"teacher": [SlowTeacher(clock)]}, SlowLearner(clock))
    ledger = SlowLedger(folder / "ledger.jsonl")
    ledger.clock = clock
    accounts = StepAccounts(
        max_steps=num_steps, metrics=FakeMetrics(), sinks=[sink], clock=clock, cpu_clock=lambda: float(next(cpu))
    )
    ring = make_ring(make_plan(num_steps, 1.0), fleet, accounts, ledger=ledger)
    asyncio.run(asyncio.wait_for(run_ring(ring), timeout=20))
    return sink.records


def test_a_record_says_where_the_time_of_its_step_went(tmp_path: Path) -> None:
    for record in records(tmp_path):
        assert record["step_s"] == pytest.approx(2.5 + 0.25 + 4.0 + 0.125 + 0.3 + 0.8)
        seconds = {name: value for name, value in record.items() if name.endswith("_s") and name != "step_s"}
        waits = {name for name in seconds if name.startswith(("wait", "blocked"))}
        assert {name: value for name, value in seconds.items() if name not in waits and "per_s" not in name} == {
            "sample_s": pytest.approx(2.5),
            "sample_transport_s": pytest.approx(0.5),
            "score_s": pytest.approx(0.25),
            "learn_s": pytest.approx(4.0),
            "learn_forward_s": 1.0,
            "learn_head_s": 0.5,
            "learn_optimizer_s": 2.25,
            "learn_transport_s": pytest.approx(0.25),
            "publish_s": pytest.approx(1.1),
            "pack_s": pytest.approx(0.3),
            "load_s": pytest.approx(0.8),
            "load_transport_s": pytest.approx(0.2),
            "load_paused_s": pytest.approx(0.2),
            "between_s": pytest.approx(0.125),
            "controller_s": 1.0,
            "sampler_busy_s": pytest.approx(0.0, abs=1.0),  # by the clock of its pool, which is real
            "teacher_busy_s": pytest.approx(0.0, abs=1.0),
        }


class Answering:
    """Says once what it was told to say."""

    def __init__(self, **spent: float) -> None:
        self.spent: Mapping[str, float] = spent

    def time_spent(self) -> Mapping[str, float]:
        spent, self.spent = self.spent, {}
        return spent


def test_shares_of_overlapping_calls_are_of_the_time_in_which_any_was_under_way() -> None:
    """Two replicas answer side by side in 4 and 2 s, of which 3 and 1.5 s are work."""
    clock = Clock()
    spent = TimeSpent(clock, clock)
    with spent.asked("sample", Answering(sample=3.0)):
        clock.now += 2.0
        with spent.asked("sample", Answering(sample=1.5)):
            clock.now += 2.0
    assert spent.fields({"sample_s": 4.0})["sample_transport_s"] == pytest.approx(4.0 * 1.5 / 6.0)
    assert "sample_transport_s" not in spent.fields({"sample_s": 4.0})  # collected anew


def test_what_was_told_of_calls_that_nobody_timed_makes_no_negative_transport() -> None:
    """Those of an evaluation, say."""
    clock = Clock()
    spent = TimeSpent(clock, clock)
    with spent.asked("score", Answering(score=30.0)):
        clock.now += 1.0
    assert spent.fields({"score_s": 1.0})["score_transport_s"] == 0.0


def test_a_call_that_fails_counts_too() -> None:
    clock = Clock()
    spent = TimeSpent(clock, clock)
    with suppress(ValueError), spent.asked("score", Answering()):
        clock.now += 1.0
        raise ValueError
    with spent.asked("score", Answering(score=1.0)):
        clock.now += 1.0
    assert spent.fields({"score_s": 2.0})["score_transport_s"] == 1.0
