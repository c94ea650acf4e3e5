"""Ranks as one learner: what they do together, and what becomes of all when one does not; no cluster is started."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gkd_dist.cluster.learner_group import LearnerGroup
from gkd_dist.cluster.learner_ranks import rank_environment
from gkd_dist.errors import EngineError, LearnerLostError, LostTargetsError, RejectedError
from gkd_dist.interfaces import Placed
from gkd_dist.process import DEFAULTS
from gkd_dist.targets import SampledTargets
from gkd_dist.testing.fakes import FakeLearner
from gkd_dist.types import StepReport, TrainBatch
from tests import tiny


class Rank(FakeLearner):
    """A fake whose next calls of `train`, `save` and `write_snapshot` may fail or never answer, and which may lack its
    targets."""

    def __init__(self, error: Exception | None = None, *, silent: bool = False) -> None:
        super().__init__()
        self.error = error
        self.silent = silent
        self.cancelled = False
        self.lost: LostTargetsError | None = None

    async def fetch(self, batch: TrainBatch) -> None:
        if self.lost is not None:
            raise self.lost

    async def train(self, batch: TrainBatch) -> StepReport:
        await self._fail()
        return replace(await super().train(batch), seconds={"gradient": float(len(batch.scored))})

    async def save(self, path: Path) -> None:
        await self._fail()
        await super().save(path)

    async def write_snapshot(self, folder: Path) -> None:
        await self._fail()
        await super().write_snapshot(folder)

    async def _fail(self) -> None:
        if self.silent:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        if self.error:
            raise self.error


class Ended:
    """Counts how often the ranks were ended."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def group_of(*ranks: Rank) -> tuple[LearnerGroup, Ended]:
    ended = Ended()
    return LearnerGroup(ranks, ended, grace_s=0.01), ended


def batch(step: int = 0) -> TrainBatch:
    lengths = [(5, 7), (1, 3), (9, 1), (4, 12), (6, 6)]
    targets = [SampledTargets(np.zeros(length, np.float32)) for _, length in lengths]
    return TrainBatch(step, tuple(tiny.scored(tiny.trajectories(lengths), targets)), 5, 29)


def test_every_rank_trains_on_its_share_and_the_slowest_gives_the_time() -> None:
    ranks = [Rank(), Rank()]
    group, _ = group_of(*ranks)
    report = asyncio.run(group.train(batch()))
    trained = [[item.trajectory.num_tokens for item in rank.batches[0].scored] for rank in ranks]
    assert sorted(map(sorted, trained)) == [[4, 12, 12], [10, 16]]
    assert all(rank.batches[0].num_sequences == 5 for rank in ranks)
    assert report.policy_version == 1
    assert report.seconds == {"gradient": 3.0}


def test_every_rank_does_everything_else(tmp_path: Path) -> None:
    ranks = [Rank(), Rank(), Rank()]
    group, ended = group_of(*ranks)

    async def scenario() -> None:
        await group.train(batch())
        assert (await group.publish()).manifest.version == 1
        assert (await group.evaluate(batch(1))).num_sequences == len(ranks[0].batches[0].scored)
        await group.save(tmp_path / "final")
        assert await group.snapshot() == 1
        await group.write_snapshot(tmp_path)
        await group.train(batch(1))
        assert await group.restore(tmp_path) == 1
        await group.close()

    asyncio.run(scenario())
    assert [rank.saved for rank in ranks] == [[tmp_path / "final"]] * 3
    assert all(rank.closed for rank in ranks)
    assert ended.times == 0


def test_what_all_ranks_refuse_alike_is_raised_and_they_go_on() -> None:
    ranks = [Rank(RejectedError("id 7 is not shared")), Rank(RejectedError("id 7 is not shared"))]
    group, ended = group_of(*ranks)
    with pytest.raises(RejectedError, match="id 7"):
        asyncio.run(group.train(batch()))
    for rank in ranks:
        rank.error = None
    assert asyncio.run(group.train(batch())).policy_version == 1
    assert ended.times == 0


@pytest.mark.parametrize(
    "others",
    [[Rank(silent=True)], [Rank(EngineError("connection closed"))], [Rank()], [Rank(silent=True), Rank(silent=True)]],
    ids=["the other waits", "the other fails in its own way", "the other has trained", "two wait"],
)
def test_a_rank_that_fails_alone_in_a_step_ends_all(others: list[Rank]) -> None:
    group, ended = group_of(Rank(EngineError("rank 0 died")), *others)
    with pytest.raises(LearnerLostError, match=r"could not train together: .*rank 0 died"):
        asyncio.run(group.train(batch()))
    assert ended.times == 1
    assert all(rank.cancelled for rank in others if rank.silent)
    with pytest.raises(LearnerLostError, match="rank 0 died"):
        asyncio.run(group.snapshot())
    assert ended.times == 1


def test_a_rank_that_died_ends_all_whatever_was_asked() -> None:
    group, ended = group_of(Rank(LearnerLostError("rank 0 died")), Rank())
    with pytest.raises(LearnerLostError, match="rank 0 died"):
        asyncio.run(group.save(Path("final")))
    assert ended.times == 1


def test_a_full_disk_at_one_rank_ends_nobody() -> None:
    group, ended = group_of(Rank(EngineError("no space left")), Rank())
    with pytest.raises(EngineError, match="no space left"):
        asyncio.run(group.save(Path("final")))
    assert asyncio.run(group.snapshot()) == 0
    assert ended.times == 0


@pytest.mark.fault(31)
@pytest.mark.parametrize("error", [EngineError("no space left"), LearnerLostError("rank 0 died")])
def test_a_rank_that_cannot_write_its_snapshot_waits_for_those_that_can_and_ends_nobody(error: Exception) -> None:
    class Slow(Rank):
        has_written = False

        async def write_snapshot(self, folder: Path) -> None:
            for _ in range(100):
                await asyncio.sleep(0.001)  # longer than the grace of the group
            self.has_written = True

    slow = Slow()
    group, ended = group_of(Rank(error), slow)
    with pytest.raises(type(error), match=str(error)):
        asyncio.run(group.write_snapshot(Path("snapshot")))
    assert slow.has_written
    assert ended.times == 0
    assert asyncio.run(group.snapshot()) == 0


@pytest.mark.fault(14)
def test_targets_that_one_rank_cannot_find_are_told_before_any_rank_trains() -> None:
    ranks = [Rank(), Rank()]
    group, ended = group_of(*ranks)
    ranks[1].lost = LostTargetsError("gone with their node")
    with pytest.raises(LostTargetsError, match="gone with their node"):
        asyncio.run(group.train(batch()))
    assert [rank.batches for rank in ranks] == [[], []]
    assert ended.times == 0
    ranks[1].lost = None
    assert asyncio.run(group.train(batch())).policy_version == 1


def test_ranks_of_different_versions_are_lost() -> None:
    ahead = Rank()
    asyncio.run(ahead.train(batch()))
    group, ended = group_of(Rank(), ahead)
    with pytest.raises(LearnerLostError, match=r"policy versions are \[0, 1\]"):
        asyncio.run(group.snapshot())
    assert ended.times == 1


def test_closing_a_lost_group_closes_every_rank_and_raises_nothing() -> None:
    ranks = [Rank(EngineError("rank 0 died")), Rank()]
    group, _ = group_of(*ranks)
    with pytest.raises(LearnerLostError):
        asyncio.run(group.train(batch()))
    asyncio.run(group.close())
    assert all(rank.closed for rank in ranks)


def test_ranks_give_memory_back_unless_the_user_says_otherwise() -> None:
    usual = rank_environment(DEFAULTS)
    assert (usual["MALLOC_MMAP_MAX_"], usual["MALLOC_MMAP_THRESHOLD_"]) == ("65536", "1048576")
    assert usual["GOMP_SPINCOUNT"] == DEFAULTS["GOMP_SPINCOUNT"]
    assert rank_environment(DEFAULTS | {"MALLOC_MMAP_MAX_": "7"})["MALLOC_MMAP_MAX_"] == "7"


def test_a_group_is_where_its_ranks_are_in_their_order() -> None:
    ranks = [Rank(), Rank(), Rank()]
    for number in (0, 2):  # the process of rank 1 is not known
        ranks[number].places = [{"pid": 10 - number, "node": f"n{number}"}]  # type: ignore[attr-defined]
    group, _ = group_of(*ranks)
    assert isinstance(group, Placed)
    assert group.places == [{"pid": 10, "node": "n0"}, {"pid": 8, "node": "n2"}]
