"""Scored trajectories without their payload: what travels by value, while the targets stay in the object store."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gkd_dist.errors import EngineError
from gkd_dist.targets import TargetsHandle, TeacherTargets
from gkd_dist.types import ByteArray, ScoredTrajectory, TeacherScore, TrainBatch, Trajectory
from gkd_dist.wire.codec import decode, decode_targets, encode

MAX_TARGETS_BYTES = 8 << 30
"""Of one message of teacher targets; they come from our own teachers and stay in shared memory."""


class ScoredHeader:
    """Trajectories, teachers and rewards, and which record of which frame holds the targets.

    Args:
        scored: supplies everything but the targets.
        places: (frame number, record number) of every score, trajectory after trajectory.
    """

    def __init__(self, scored: Sequence[ScoredTrajectory], places: Sequence[tuple[int, int]]) -> None:
        self._teachers = [[score.teacher for score in item.scores] for item in scored]
        self._rewards = [item.reward for item in scored]
        self._trajectories = encode([item.trajectory for item in scored])
        self._places = list(places)

    def with_targets(self, frames: Sequence[ByteArray]) -> list[ScoredTrajectory]:
        """The scored trajectories with views into `frames` as their targets."""
        records = [decode_targets(frame, max_bytes=MAX_TARGETS_BYTES) for frame in frames]
        return self._filled(lambda frame, record, _: records[frame][record])

    def with_handles(self, references: Sequence[object], num_bytes: Sequence[int]) -> list[ScoredTrajectory]:
        """The scored trajectories with handles.

        Args:
            references: one per frame.
            num_bytes: of the targets, one per score.
        """
        sizes = iter(num_bytes)
        return self._filled(
            lambda frame, record, trajectory: TargetsHandle(
                references[frame], record, trajectory.num_completion_tokens, next(sizes)
            )
        )

    def _filled(self, targets: Any) -> list[ScoredTrajectory]:
        places = iter(self._places)
        return [
            ScoredTrajectory(
                trajectory,
                tuple(TeacherScore(teacher, targets(*next(places), trajectory)) for teacher in teachers),
                reward,
            )
            for trajectory, teachers, reward in zip(
                decode(self._trajectories, Trajectory), self._teachers, self._rewards, strict=True
            )
        ]


class BatchHeader:
    """A train batch without its payload."""

    def __init__(self, batch: TrainBatch, places: Sequence[tuple[int, int]]) -> None:
        self._step = batch.step
        self._num_sequences = batch.num_sequences
        self._num_tokens = batch.num_tokens
        self._advantages = batch.advantages
        self._scored = ScoredHeader(batch.scored, places)

    def batch(self, frames: Sequence[ByteArray]) -> TrainBatch:
        """The batch with views into `frames` as its targets."""
        scored = tuple(self._scored.with_targets(frames))
        return TrainBatch(self._step, scored, self._num_sequences, self._num_tokens, self._advantages)


def payload_of(scored: Sequence[ScoredTrajectory]) -> tuple[list[tuple[int, int]], list[Any]]:
    """Where the targets of every score lie, and the distinct object references that hold them.

    Raises:
        EngineError: targets that are no handles.
    """
    references: dict[Any, int] = {}
    places = []
    for item in scored:
        for score in item.scores:
            if not isinstance(score.targets, TargetsHandle):
                raise EngineError("a part behind Ray takes targets by handle; score them with a teacher behind Ray")
            frame = references.setdefault(score.targets.reference, len(references))
            places.append((frame, score.targets.index))
    return places, list(references)


def framed(scored: Sequence[ScoredTrajectory]) -> tuple[ScoredHeader, list[int], ByteArray]:
    """Scored trajectories with their targets in memory, as a header, the bytes of each score, and one frame.

    The frame is empty where nobody scored them.
    """
    targets: list[TeacherTargets] = []
    for item in scored:
        for score in item.scores:
            if isinstance(score.targets, TargetsHandle):
                raise EngineError("a handle holds no targets; fetch what it stands for, then frame that")
            targets.append(score.targets)
    header = ScoredHeader(scored, [(0, index) for index in range(len(targets))])
    return header, [item.num_bytes for item in targets], encode(targets) if targets else np.empty(0, np.uint8)
