"""One train batch as one share for each learner rank."""

from collections.abc import Sequence
from dataclasses import replace

from gkd_dist.types import TrainBatch


def shares(batch: TrainBatch, num_ranks: int) -> list[TrainBatch]:
    """Shares with about equal tokens; together they are the batch, and each has its denominators.

    Longest first, each to the rank with the fewest tokens so far (Graham 1969: the largest share is at most 4/3 of the
    best possible one). Which share a trajectory is in depends on the trajectories of the batch, not on their order. A
    share is empty where there are fewer trajectories than ranks.
    """
    loads = [0] * num_ranks
    members: list[list[int]] = [[] for _ in range(num_ranks)]
    lengths = [item.trajectory.num_tokens for item in batch.scored]
    names = [(item.trajectory.sample_id, item.trajectory.attempt) for item in batch.scored]
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], names[index])):
        rank = loads.index(min(loads))
        loads[rank] += lengths[index]
        members[rank].append(index)
    return [_share(batch, sorted(indices)) for indices in members]


def _share(batch: TrainBatch, indices: Sequence[int]) -> TrainBatch:
    return replace(
        batch,
        scored=tuple(batch.scored[index] for index in indices),
        advantages=None if batch.advantages is None else batch.advantages[list(indices)],
    )
