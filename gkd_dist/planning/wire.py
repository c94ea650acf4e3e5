"""Bytes between the roles (floor F2).

Prompts and completions travel as 4-byte ids, to the teachers and to the learner; the student's completions carry a
4-byte log-prob per token; teachers answer with their transport's bytes per completion token (docs/transports.md).
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


def wire_bytes(work: Workload) -> Wire:
    sampled = work.batch_size * work.student_fraction * work.lengths.completion
    targets = sum(each.share * each.bytes_per_token for each in work.teachers) * work.trained_tokens
    readers = (1 if work.teachers else 0) + 1
    trajectories = readers * _ID_BYTES * (work.read_tokens + sampled)
    return Wire(trajectories, targets, work.publications * work.published_bytes)
