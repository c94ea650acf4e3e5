"""Bytes between the roles (floor F2).

Prompts and completions travel as 4-byte ids, to the learner and to each teacher that a sequence goes to; the student's
completions carry a 4-byte log-prob per token; teachers answer with their transport's bytes per completion token
(docs/transports.md).
"""

from dataclasses import dataclass

from gkd_dist.planning.workload import Workload

_ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class Wire:
    """Of one step, bytes."""

    trajectories: float
    targets: float
    weights: float
    """Of the policy versions that are published; each node with samplers receives them once."""

    @property
    def total(self) -> float:
        return self.trajectories + self.targets + self.weights


def wire_bytes(work: Workload, num_nodes: int) -> Wire:
    """
    Args:
        num_nodes: with samplers.
    """
    readers = work.readers + 1
    return Wire(
        readers * _trajectory_bytes(work),
        _target_bytes(work),
        work.publications * work.published_bytes * num_nodes,
    )


def learner_bytes_in(work: Workload) -> float:
    """Of these, what a step's batch brings into the learner."""
    return _trajectory_bytes(work) + _target_bytes(work)


def _trajectory_bytes(work: Workload) -> float:
    sampled = work.batch_size * work.student_fraction * work.lengths.completion
    return _ID_BYTES * (work.read_tokens + sampled)


def _target_bytes(work: Workload) -> float:
    return sum(each.share * each.bytes_per_token for each in work.teachers) * work.trained_tokens
