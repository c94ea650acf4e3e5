"""Going back to a checkpoint may take as long as its files are long, while it moves."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.checkpoints import manifest
from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.local import LocalJournal
from gkd_dist.pipeline.job import distil
from gkd_dist.pipeline.progress import Progress
from gkd_dist.pipeline.recovery_point import find_recovery_point
from gkd_dist.replay.ledger import Ledger
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from gkd_dist.types import SamplingParams, ScoredTrajectory, TeacherScore
from tests import tiny
from tests.fleets import fleet_of
from tests.rings import make_job, make_plan

STALL_S = 0.6


@pytest.mark.fault(23)
def test_going_back_may_take_longer_while_something_moves(tmp_path: Path) -> None:
    """Every part of it by itself: reading a checkpoint and a journal, and rewriting the journal, with a record at a
    time."""

    class Journal(LocalJournal):
        """Slow files."""

        async def read(self, finished: Any = frozenset(), progressed: Callable[[], object] = lambda: None) -> Any:
            await creeps(progressed)
            return await super().read(finished, progressed)

        async def keep_only(self, wanted: Any, progressed: Callable[[], object] = lambda: None) -> None:
            await creeps(progressed)
            await super().keep_only(wanted, progressed)

    async def creeps(progressed: Callable[[], object]) -> None:
        for _ in range(8):
            await asyncio.sleep(STALL_S / 4)
            progressed()

    fleet = fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner())
    job = make_job(make_plan(2, 0.5), fleet, tmp_path, rules=SupervisionConfig(stall_timeout_s=STALL_S))
    job = replace(job, durability=replace(job.durability, journal=Journal(tmp_path / "journal")))
    asyncio.run(distil(job))
    assert not (tmp_path / "diagnosis.json").exists()


def test_each_record_of_a_journal_that_is_read_or_written_anew_is_progress(tmp_path: Path) -> None:
    """Two, twice read; then one of them is written anew."""
    told: list[str] = []

    async def turn() -> None:
        files = LocalJournal(tmp_path / "journal")
        trajectories = await FakeSampler().sample(tiny.prompts([3, 4]), SamplingParams(max_new_tokens=6))
        targets = await FakeTeacher().score(trajectories)
        pairs = zip(trajectories, targets, strict=True)
        scored = [ScoredTrajectory(each, (TeacherScore("teacher", said),)) for each, said in pairs]
        await files.append(scored)
        assert len((await files.read(frozenset(), lambda: told.append("read"))).scored) == 2
        await files.keep_only({scored[0].trajectory.sample_id}, lambda: told.append("keep"))

    asyncio.run(turn())
    assert told == ["read"] * 4 + ["keep"] * 3


def test_each_part_of_a_file_that_is_read_of_a_checkpoint_is_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, told = CheckpointStore(tmp_path / "checkpoints", 2), []
    draft = store.draft(0)
    (draft / "weights").write_bytes(bytes(12))
    Progress("test").write(draft)
    num_bytes = (draft / "ring.json").stat().st_size
    store.commit(0)
    monkeypatch.setattr(manifest, "_CHUNK_BYTES", 4)
    again = CheckpointStore(tmp_path / "checkpoints", 2)
    find_recovery_point("test", again, Ledger(tmp_path / "ledger.jsonl"), lambda: told.append(4))
    assert len(told) == 12 // 4 + -(-num_bytes // 4)
