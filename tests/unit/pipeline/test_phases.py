"""Every phase of a run is under the watchdog, and none is ended that goes on slowly."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.checks import TeacherCheck
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.errors import ModelError, StalledError, StoppedError
from gkd_dist.pipeline import checkpointing, watchdog
from gkd_dist.pipeline.checkpointing import Checkpointer
from gkd_dist.pipeline.evaluation import HeldOut
from gkd_dist.pipeline.job import distil
from gkd_dist.pipeline.phases import Phase, Pulse
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import (
    DivergenceReport,
    Prompt,
    SamplingParams,
    TrainBatch,
    Trajectory,
    WeightPublication,
)
from tests import tiny
from tests.fleets import fleet_of
from tests.rings import make_job, make_plan

PROMPTS = tiny.prompts([3, 4, 5])
PAIRS = [fixed_trajectory(prompt.sample_id, prompt.token_ids, prompt.token_ids, 4) for prompt in PROMPTS]
HELD_OUT = HeldOut(PROMPTS, PAIRS, SamplingParams(max_new_tokens=6), num_shown=2, max_teacher_tokens=4)
STALL_S = 0.6
RULES = SupervisionConfig(stall_timeout_s=STALL_S)

Delay = Callable[[str], Awaitable[object]]


class SlowSampler(FakeSampler):
    def __init__(self, delay: Delay) -> None:
        super().__init__()
        self.delay = delay

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        text = "sample" if params.max_new_tokens == HELD_OUT.sampling.max_new_tokens else "roll out"
        await self.delay(f"{text} greedily" if params.temperature == 0 else text)
        return await super().sample(prompts, params)

    async def load_weights(self, publication: WeightPublication) -> int:
        await self.delay("load")
        return await super().load_weights(publication)


class SlowTeacher(FakeTeacher):
    def __init__(self, delay: Delay) -> None:
        super().__init__()
        self.delay = delay

    async def verify(self) -> TeacherCheck:
        await self.delay("verify")
        return await super().verify()

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Any]:
        await self.delay("score")
        return await super().score(trajectories)

    async def complete(self, drafts: Sequence[Trajectory], max_new_tokens: int, stops: Sequence[int]) -> list[Any]:
        await self.delay("complete")
        return await super().complete(drafts, max_new_tokens, stops)


class SlowLearner(FakeLearner):
    def __init__(self, delay: Delay) -> None:
        super().__init__()
        self.delay = delay

    async def evaluate(self, batch: TrainBatch) -> DivergenceReport:
        await self.delay(f"evaluate {batch.step}")
        return await super().evaluate(batch)

    async def restore(self, folder: Path) -> int:
        await self.delay("restore")
        return await super().restore(folder)

    async def write_snapshot(self, folder: Path) -> None:
        await self.delay("write")
        await super().write_snapshot(folder)

    async def save(self, path: Path) -> None:
        await self.delay("save")
        await super().save(path)


def job_of(delay: Delay, folder: Path, *, num_samplers: int = 1, num_teachers: int = 1, **more: Any) -> Any:
    samplers = [SlowSampler(delay) for _ in range(num_samplers)]
    fleet = fleet_of(samplers, {"teacher": [SlowTeacher(delay) for _ in range(num_teachers)]}, SlowLearner(delay))
    return make_job(make_plan(2, 0.5), fleet, folder, **{"rules": RULES, "held_out": HELD_OUT} | more)


def hangs_at(moment: str, times: int = 1) -> Delay:
    left = times

    async def delay(what: str) -> None:
        nonlocal left
        if what == moment:
            left -= 1
            if left == 0:
                await asyncio.sleep(3600)

    return delay


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    ("moment", "times", "phase"),
    [
        ("verify", 1, Phase.CHECKING),
        ("sample", 1, Phase.BEFORE),
        ("evaluate 0", 1, Phase.BEFORE),
        ("sample greedily", 1, Phase.BEFORE),
        ("load", 1, Phase.TRAINING),
        ("evaluate 2", 1, Phase.AFTER),
        ("sample greedily", 2, Phase.AFTER),
        ("complete", 1, Phase.ASKING),
    ],
)
def test_a_phase_that_stands_still_is_ended_and_named(tmp_path: Path, moment: str, times: int, phase: Phase) -> None:
    job = job_of(hangs_at(moment, times), tmp_path)
    with pytest.raises(StalledError, match=f"^{phase}: nothing has come to an end for {STALL_S:g} s"):
        asyncio.run(asyncio.wait_for(distil(job), 30))
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    assert found["phase"] == phase
    assert found["timeout_s"] == STALL_S <= found["idle_s"]
    assert found["replicas"]["sampler"]["states"] == {"0": "healthy"}
    assert ("step" in found) == (phase in (Phase.TRAINING, Phase.AFTER, Phase.ASKING))
    assert any("delay" in line for stack in found["stacks"].values() for line in stack)


def test_going_back_to_a_checkpoint_and_saving_have_their_own_time(tmp_path: Path) -> None:
    async def nothing(what: str) -> None: ...

    save_s = 0.2
    job = job_of(nothing, tmp_path, held_out=None, save_steps=1)
    job = replace(
        job, durability=replace(job.durability, config=job.durability.config.model_copy(update={"timeout_s": save_s}))
    )
    asyncio.run(distil(job))
    for moment, extra_s, phase in (("restore", 0.3, Phase.RECOVERING), ("save", save_s, Phase.SAVING)):
        again = job_of(hangs_at(moment), tmp_path, held_out=None, startup_timeout_s=0.3)
        again = replace(again, durability=job.durability)
        with pytest.raises(StalledError, match=f"^{phase}: nothing has come to an end for {STALL_S + extra_s:g} s"):
            asyncio.run(asyncio.wait_for(distil(again), 30))
        assert json.loads((tmp_path / "diagnosis.json").read_text())["phase"] == phase


def stopped_job(folder: Path, delay: Delay, timeout_s: float) -> Any:
    """Asked to stop before its first step, with a checkpoint that may take so long."""
    job = job_of(delay, folder, held_out=None)
    job.stop.set()
    config = job.durability.config.model_copy(update={"timeout_s": timeout_s})
    return replace(job, durability=replace(job.durability, config=config))


@pytest.mark.fault(33)
def test_a_stop_waits_for_a_checkpoint_that_is_slower_than_the_stall(tmp_path: Path) -> None:
    async def delay(what: str) -> None:
        if what == "write":
            await asyncio.sleep(2.5 * STALL_S)

    job = stopped_job(tmp_path, delay, timeout_s=30)
    with pytest.raises(StoppedError, match="with a checkpoint of the last"):
        asyncio.run(distil(job))
    assert job.durability.store.newest().step == 0
    assert not (tmp_path / "diagnosis.json").exists()


def test_a_stop_whose_checkpoint_is_overdue_is_a_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own deadline has passed, and what follows it does not end either."""
    job = stopped_job(tmp_path, hangs_at("write"), timeout_s=0.2)

    async def abandons_nothing(*_: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(Checkpointer, "_abandon", abandons_nothing)
    monkeypatch.setattr(checkpointing, "_LAST_SAVE_S", 0.1)
    monkeypatch.setattr(watchdog, "_LAST_WORDS_S", 0.2)
    with pytest.raises(StalledError, match=f"^{Phase.TRAINING}"):
        asyncio.run(distil(job))


def test_a_slow_evaluation_in_which_requests_are_answered_goes_on(tmp_path: Path) -> None:
    """Every phase takes longer than the limit, no single request does: one of each role is answered after the other."""
    turn = asyncio.Lock()
    spent: dict[str, float] = {}

    async def delay(what: str) -> None:
        async with turn:
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(0.2)
            spent[what] = spent.get(what, 0.0) + asyncio.get_running_loop().time() - began

    stall_s = 1.0
    rules = SupervisionConfig(stall_timeout_s=stall_s)
    job = job_of(delay, tmp_path, num_samplers=3, num_teachers=6, rules=rules)
    outcome = asyncio.run(asyncio.wait_for(distil(job), 60))
    assert outcome.after is not None
    assert min(spent["verify"], spent["sample"], spent["score"]) > stall_s
    assert not (tmp_path / "diagnosis.json").exists()


def test_an_evaluation_that_cannot_be_kept_in_time_ends_the_run(tmp_path: Path) -> None:
    """Its file is written in the event loop, which a disk that hangs stops."""
    goes_on, left = threading.Event(), []

    def leave(code: int) -> None:
        left.append(code)
        goes_on.set()

    job = job_of(lambda _: asyncio.sleep(0), tmp_path, keep_before=lambda _: goes_on.wait(20), leave=leave)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "_LAST_WORDS_S", 0.1)
        asyncio.run(distil(job))
    assert left == [StalledError.exit_code]
    assert json.loads((tmp_path / "diagnosis.json").read_text())["phase"] == Phase.BEFORE


def test_where_requests_have_no_deadline_one_that_asks_for_more_may_take_longer(tmp_path: Path) -> None:
    """18 tokens at once where a train step has 20: the limit stays. With four times the prompts it is 3.6 of them."""

    async def delay(what: str) -> None:
        if what == "sample":
            await asyncio.sleep(1.8 * STALL_S)

    many = replace(HELD_OUT, prompts=tiny.prompts([3, 4, 5] * 4), pairs=[])
    outcome = asyncio.run(distil(job_of(delay, tmp_path / "a", held_out=many, has_deadlines=False)))
    assert outcome.before is not None
    for held_out, has_deadlines in ((HELD_OUT, False), (many, True)):
        folder = tmp_path / str(has_deadlines)
        folder.mkdir()
        with pytest.raises(StalledError, match=f"^{Phase.BEFORE}"):
            asyncio.run(distil(job_of(delay, folder, held_out=held_out, has_deadlines=has_deadlines)))


def test_what_the_user_can_mend_leaves_no_diagnosis(tmp_path: Path) -> None:
    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher(gaps_nats=[9.0])]}, FakeLearner())
    with pytest.raises(ModelError):
        asyncio.run(distil(make_job(make_plan(2, 0.5), fleet, tmp_path)))
    assert not (tmp_path / "diagnosis.json").exists()


def test_the_pulse_sees_the_ring_and_every_pool() -> None:
    async def check() -> None:
        now, accounts_idle_s = 0.0, 100.0
        fleet = fleet_of([FakeSampler()], {"a": [FakeTeacher()], "b": [FakeTeacher()]}, FakeLearner())
        pulse = Pulse(fleet, lambda: accounts_idle_s, lambda: now)
        now = 5.0
        assert pulse.idle_s() == 5.0
        for pool, work in ((fleet.samplers, "ping"), (fleet.teachers["b"], "ping")):
            await pool.call(lambda part, work=work: getattr(part, work)(), "answer")
            await asyncio.sleep(0)
            assert pulse.idle_s() == 0.0
            now += 3.0
            assert pulse.idle_s() == 3.0
        accounts_idle_s = 1.0
        assert pulse.idle_s() == 1.0

    asyncio.run(check())
