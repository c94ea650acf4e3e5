"""A ring that fails while the learner trains: what the learner does then is neither lost nor done twice."""

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import EngineError, RejectedError
from gkd_dist.pipeline import watchdog
from gkd_dist.pipeline.job import Job, distil
from gkd_dist.pipeline.step_under_way import StepUnderWay
from gkd_dist.replay.ledger import Ledger, StepEntry
from gkd_dist.serial import SerialThread
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import Prompt, SamplingParams, StepReport, TrainBatch, Trajectory
from tests.fleets import fleet_of
from tests.rings import BATCH, make_job, make_plan

STEPS, FAILS_AT = 6, 3


class OnAThread(FakeLearner):
    """Trains on a thread, which nobody can call back, as the real one does; in one step, until it may go on."""

    def __init__(self, begun: asyncio.Event, may_go_on: threading.Event) -> None:
        super().__init__("0")
        self._thread = SerialThread("learner")
        self._begun = begun
        self._may_go_on = may_go_on

    async def train(self, batch: TrainBatch) -> StepReport:
        if batch.step == FAILS_AT:
            self._begun.set()
            return await self._thread.run(lambda: self._train(batch))
        return await super().train(batch)

    def _train(self, batch: TrainBatch) -> StepReport:
        self._may_go_on.wait(10)
        return asyncio.run(FakeLearner.train(self, batch))

    async def snapshot(self) -> int:
        return await self._thread.run(lambda: asyncio.run(FakeLearner.snapshot(self)))


class Refuses(FakeSampler):
    """What the steps after the one that hangs need, and once that one is under way."""

    def __init__(self, begun: asyncio.Event, then: Callable[[], object]) -> None:
        super().__init__()
        self._begun = begun
        self._then = then

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        if prompts[0].sample_id.prompt_index >= (FAILS_AT + 1) * BATCH:
            await self._begun.wait()
            self._then()
            raise RejectedError("one too many")
        return await super().sample(prompts, params)


def failing_job(folder: Path, may_go_on: threading.Event, then: Callable[[], object]) -> Job:
    begun = asyncio.Event()
    fleet = fleet_of([Refuses(begun, then)], {"teacher": [FakeTeacher()]}, OnAThread(begun, may_go_on))
    return make_job(plan(), fleet, folder, save_steps=20, rules=SupervisionConfig(max_dropped=0))


def plan():
    return make_plan(STEPS, 1.0, whole_steps=False, max_staleness=1, replay_capacity=4 * BATCH)


def trained(folder: Path) -> list[int]:
    entries = [entry for entry in Ledger(folder / "ledger.jsonl").entries() if isinstance(entry, StepEntry)]
    return [sequence.sample_id.prompt_index for entry in entries for sequence in entry.sequences]


@pytest.mark.fault(6)
def test_the_step_that_the_learner_is_at_is_in_the_last_checkpoint(tmp_path: Path) -> None:
    may_go_on = threading.Event()

    async def turn() -> None:
        loop = asyncio.get_running_loop()
        await distil(failing_job(tmp_path, may_go_on, lambda: loop.call_later(0.1, may_go_on.set)))

    with pytest.raises(EngineError):
        asyncio.run(turn())
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    assert (found["step"], found["last_checkpoint"]) == (FAILS_AT + 1, FAILS_AT + 1)
    assert len(trained(tmp_path)) == (FAILS_AT + 1) * BATCH
    learner = FakeLearner("1")
    asyncio.run(distil(make_job(plan(), fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, learner), tmp_path)))
    assert [batch.step for batch in learner.batches] == list(range(FAILS_AT + 1, STEPS))
    assert sorted(trained(tmp_path)) == list(range(STEPS * BATCH))


def test_a_step_that_does_not_end_is_given_up_and_never_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "_WORDS_OF_FAILURE_S", 0.2)
    may_go_on = threading.Event()

    async def turn() -> None:
        job = failing_job(tmp_path, may_go_on, lambda: None)
        try:
            await distil(job)
        finally:
            may_go_on.set()
            await job.fleet.learner.snapshot()  # the thread is through with the step
            assert asyncio.all_tasks() == {asyncio.current_task()}

    with pytest.raises(EngineError, match="max_dropped is 0"):
        asyncio.run(turn())
    assert "no checkpoint at the end" in caplog.text
    assert len(trained(tmp_path)) == FAILS_AT * BATCH


def test_a_step_outlives_who_asked_for_it_until_it_is_ended() -> None:
    async def turn() -> list[str]:
        step, said, begun = StepUnderWay(), [], asyncio.Event()

        async def work(goes_on: asyncio.Event) -> None:
            begun.set()
            try:
                await goes_on.wait()
                said.append("done")
            except asyncio.CancelledError:
                said.append("given up")
                raise

        await step.end()  # there is none
        for goes_on, timeout_s in ((asyncio.Event(), 20.0), (asyncio.Event(), 0.0)):
            begun.clear()
            asking = asyncio.create_task(step.see_through(work(goes_on)))
            await begun.wait()
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
            if timeout_s:
                goes_on.set()
            await step.end(timeout_s)
        return said

    assert asyncio.run(turn()) == ["done", "given up"]
