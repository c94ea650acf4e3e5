"""A batch split over learner ranks: nothing lost, about equal tokens, whatever the order."""

import random
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.cluster.shares import shares
from gkd_dist.targets import SampledTargets
from gkd_dist.types import TrainBatch
from tests import tiny


def batch_of(lengths: list[tuple[int, int]]) -> TrainBatch:
    written = tiny.trajectories(lengths)
    scored = tiny.scored(written, [SampledTargets(np.zeros(length, np.float32)) for _, length in lengths])
    advantages = np.arange(len(lengths), dtype=np.float32)
    return TrainBatch(3, tuple(scored), len(lengths), sum(length for _, length in lengths), advantages)


def tokens(batch: TrainBatch) -> int:
    return sum(item.trajectory.num_tokens for item in batch.scored)


def ids(batch: TrainBatch) -> set[int]:
    return {item.trajectory.sample_id.prompt_index for item in batch.scored}


BATCHES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12).map(batch_of)


@given(BATCHES, st.integers(1, 5))
def test_shares_are_the_batch_with_its_denominators(batch: TrainBatch, num_ranks: int) -> None:
    parts = shares(batch, num_ranks)
    assert len(parts) == num_ranks
    assert sorted(index for part in parts for index in ids(part)) == sorted(ids(batch))
    for part in parts:
        assert (part.step, part.num_sequences, part.num_tokens) == (3, batch.num_sequences, batch.num_tokens)
        assert [float(item.trajectory.sample_id.prompt_index) for item in part.scored] == list(part.advantages)


@given(BATCHES, st.integers(1, 5))
def test_no_rank_has_more_than_the_least_loaded_one_and_a_trajectory(batch: TrainBatch, num_ranks: int) -> None:
    loads = [tokens(part) for part in shares(batch, num_ranks)]
    assert max(loads) - min(loads) <= max(item.trajectory.num_tokens for item in batch.scored)


@given(BATCHES, st.integers(1, 5), st.randoms())
def test_the_order_of_a_batch_decides_nothing(batch: TrainBatch, num_ranks: int, order: random.Random) -> None:
    mixed = list(batch.scored)
    order.shuffle(mixed)
    other = shares(replace(batch, scored=tuple(mixed)), num_ranks)
    assert [ids(part) for part in other] == [ids(part) for part in shares(batch, num_ranks)]


def test_a_share_may_be_empty() -> None:
    assert [len(part.scored) for part in shares(batch_of([(3, 4), (2, 9)]), 3)] == [1, 1, 0]


def test_equal_lengths_are_dealt_out_evenly() -> None:
    assert [len(part.scored) for part in shares(batch_of([(2, 2)] * 8), 3)] == [3, 3, 2]
