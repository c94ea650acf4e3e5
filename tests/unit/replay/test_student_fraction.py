"""The claim of the mixture: the realised student fraction is what was asked for, whatever the queue goes through."""

import asyncio
import random
from math import floor, sqrt

import numpy as np
import pytest

from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.replay.buffer import ReplayBuffer
from gkd_dist.replay.groups import Admission
from gkd_dist.targets import FullTargets
from gkd_dist.types import FinishReason, SampleId, ScoredTrajectory, Source, TeacherScore, Trajectory, VersionRange

NUM_DRAWS = 10_000
BATCH_SIZE = 3
MAX_STALENESS = 2
LOOKAHEAD = 2
"""Batches issued before the one the learner waits for."""
TOKEN = np.array([1], dtype=np.int32)
LOG_PROB = np.zeros(1, dtype=np.float32)
TARGETS = FullTargets(np.zeros((1, 2), dtype=np.float32))


class UnreliableRing:
    """Samplers that are late, repeat themselves and finish out of order, in front of a real buffer."""

    def __init__(self, mixture, seed):
        self._mixture = mixture
        self._rng = random.Random(seed)
        self._reissued = []
        self._version = 0
        self.replay = ReplayBuffer(
            (1 + LOOKAHEAD) * BATCH_SIZE, MAX_STALENESS, batch_size=BATCH_SIZE, on_evict=self._reissue
        )

    def _reissue(self, group):
        (scored,) = group
        self._reissued.append((scored.trajectory.sample_id, scored.trajectory.attempt + 1))

    def _sampled(self, sample_id, attempt):
        # A first attempt may be as old as it likes; a repeated one is written by the current student.
        age = 0 if attempt else self._rng.choice((0, 0, 0, 1, 2, 3, 5))
        versions = VersionRange(max(0, self._version - age), self._version)
        trajectory = Trajectory(sample_id, TOKEN, TOKEN, Source.STUDENT, FinishReason.STOP, attempt, LOG_PROB, versions)
        return ScoredTrajectory(trajectory, (TeacherScore("teacher", TARGETS),))

    async def _admit(self, scored):
        verdict = await self.replay.admit([scored], self._version)
        if verdict is Admission.TOO_STALE:
            self._reissue([scored])
        if self._rng.random() < 0.1:
            again = await self.replay.admit([scored], self._version)
            assert again in (Admission.DUPLICATE, Admission.TOO_STALE)

    async def _issue(self, step):
        num_student = self._mixture.num_student(step)
        offers = []
        for position in range(BATCH_SIZE):
            sample_id = SampleId("r", step * BATCH_SIZE + position)
            if position < num_student:
                offers.append(self._sampled(sample_id, attempt=0))
            else:
                pair = fixed_trajectory(sample_id, TOKEN, TOKEN, max_new_tokens=1)
                offers.append(ScoredTrajectory(pair, (TeacherScore("teacher", TARGETS),)))
        self._rng.shuffle(offers)
        for scored in offers:
            await self._admit(scored)

    async def _resample(self):
        while self._reissued:
            sample_id, attempt = self._reissued.pop(self._rng.randrange(len(self._reissued)))
            await self._admit(self._sampled(sample_id, attempt))

    async def batches(self, num_steps):
        """Draw `num_steps` batches while issuing ahead of them; evictions of a draw are sampled again during it."""
        num_issued = 0
        for step in range(num_steps):
            self._version = step
            while num_issued < min(step + 1 + LOOKAHEAD, num_steps):
                await self._issue(num_issued)
                num_issued += 1
            num_student = self._mixture.num_student(step)
            draw = asyncio.create_task(self.replay.draw(num_student, BATCH_SIZE - num_student, step))
            await asyncio.sleep(0)
            while not draw.done() or self._reissued:
                await self._resample()
                await asyncio.sleep(0)
            yield await draw


def realised(mixture, seed):
    """Student sequences per drawn batch, after the checks that hold for every mixture."""

    async def scenario():
        ring = UnreliableRing(mixture, seed)
        async with asyncio.timeout(60):
            batches = [batch async for batch in ring.batches(NUM_DRAWS)]
        return ring.replay, batches

    replay, batches = asyncio.run(scenario())
    drawn = [each.scored.trajectory.sample_id.prompt_index for batch in batches for each in batch]
    assert sorted(drawn) == list(range(NUM_DRAWS * BATCH_SIZE)), "every stream index trained on exactly once"
    assert set(replay.staleness_counts) <= set(range(MAX_STALENESS + 1))
    assert replay.depth == 0
    assert replay.counters["drawn"] == replay.counters["admitted"] - replay.counters["evicted"] == len(drawn)
    return replay, [sum(each.scored.trajectory.source is Source.STUDENT for each in batch) for batch in batches]


@pytest.mark.parametrize("student_fraction", [0.37])
def test_quota_is_exact_over_10000_draws_with_drops_and_refusals(student_fraction):
    mixture = Mixture(
        student_fraction, "per_sequence", ScheduleConfig(), batch_size=BATCH_SIZE, seed=0, max_steps=NUM_DRAWS
    )
    replay, counts = realised(mixture, seed=1)
    totals = np.cumsum(counts)
    steps = np.arange(1, NUM_DRAWS + 1)
    assert totals.tolist() == [floor((2 * int(n) * BATCH_SIZE * 37 + 100) / 200) for n in steps]
    assert min(replay.counters[reason] for reason in ("evicted", "duplicate", "too_stale")) > 500, "faults happened"


def test_coin_is_within_three_sigma_over_10000_draws_with_drops_and_refusals():
    student_fraction = 0.6
    mixture = Mixture(
        student_fraction, "per_batch", ScheduleConfig(), batch_size=BATCH_SIZE, seed=7, max_steps=NUM_DRAWS
    )
    replay, counts = realised(mixture, seed=2)
    assert set(counts) == {0, BATCH_SIZE}, "one coin for the whole batch"
    mean = sum(counts) / (NUM_DRAWS * BATCH_SIZE)
    sigma = sqrt(student_fraction * (1 - student_fraction) / NUM_DRAWS)
    assert abs(mean - student_fraction) < 3 * sigma
    assert min(replay.counters[reason] for reason in ("evicted", "duplicate", "too_stale")) > 500, "faults happened"
