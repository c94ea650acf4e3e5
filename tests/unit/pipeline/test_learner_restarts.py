"""A learner that dies, once more while it is brought back: another one goes on, as often as the run allows."""

import asyncio
from pathlib import Path

import pytest

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import LearnerLostError
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Learner
from gkd_dist.pipeline.job import distil
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeSampler, FakeTeacher
from gkd_dist.types import StepReport, TrainBatch
from tests.fleets import fleet_of
from tests.rings import make_job, make_plan


class MortalLearner(FakeLearner):
    """Dies at a step, or when it is told to go on from a checkpoint."""

    def __init__(self, epoch: int, dies_at: int | None = None, dies_in_restore: bool = False) -> None:
        super().__init__(f"fake-{epoch}")
        self._dies_at = dies_at
        self._dies_in_restore = dies_in_restore

    async def train(self, batch: TrainBatch) -> StepReport:
        if batch.step == self._dies_at:
            raise LearnerLostError("learner died while asked to train")
        return await super().train(batch)

    async def restore(self, folder: Path) -> int:
        if self._dies_in_restore:
            raise LearnerLostError("learner died while asked to restore")
        return await super().restore(folder)


def run(folder: Path, max_learner_restarts: int, metrics: FakeMetrics | None = None) -> tuple[list[str], Fleet]:
    """Learners: one that dies at step 5, one that dies in its restore, and one that lives."""
    others = iter([MortalLearner(1, dies_in_restore=True), MortalLearner(2)])

    async def replace_learner(former: Learner) -> Learner:
        return next(others)

    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, MortalLearner(0, dies_at=5))
    fleet.replace_learner = replace_learner
    said: list[str] = []
    job = make_job(
        make_plan(9, 0.5),
        fleet,
        folder,
        metrics,
        save_steps=2,
        rules=SupervisionConfig(max_learner_restarts=max_learner_restarts),
        narrate=said.append,
    )
    asyncio.run(asyncio.wait_for(distil(job), 20))
    return said, fleet


@pytest.mark.fault(10)
def test_a_learner_that_dies_while_it_is_brought_back_is_renewed_too(tmp_path: Path) -> None:
    metrics = FakeMetrics()
    said, fleet = run(tmp_path, max_learner_restarts=2, metrics=metrics)
    assert [name for _, name, _, _ in metrics.calls].count("gkd_learner_restarts_total") == 2
    assert [line.partition("; ")[2] for line in said if "starting another" in line] == [
        "starting another learner (1 of 2)",
        "starting another learner (2 of 2)",
    ]
    steps = [batch.step for batch in fleet.learner.batches]  # type: ignore[attr-defined]
    assert steps[0] in (2, 4)  # a save still under way at step 4 skips that one, and is waited for
    assert steps == list(range(steps[0], 9))


@pytest.mark.fault(10)
def test_the_number_of_learners_of_a_run_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(LearnerLostError, match="asked to restore"):
        run(tmp_path, max_learner_restarts=1)
