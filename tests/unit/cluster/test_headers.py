"""What travels without its payload is put together again as it was."""

import asyncio

import numpy as np
import pytest

from gkd_dist.cluster.headers import ScoredHeader, framed, payload_of
from gkd_dist.errors import EngineError
from gkd_dist.targets import TargetsHandle
from gkd_dist.testing.fakes import FakeTeacher
from gkd_dist.types import ScoredTrajectory, TeacherScore
from gkd_dist.wire.codec import encode
from tests import tiny

TRAJECTORIES = tiny.trajectories([(2, 3), (4, 1), (1, 6)])
TARGETS = asyncio.run(FakeTeacher().score(TRAJECTORIES))
SCORED = [
    ScoredTrajectory(trajectory, (TeacherScore("a", each), TeacherScore("b", each)), reward=0.5)
    for trajectory, each in zip(TRAJECTORIES, TARGETS, strict=True)
]


def handles(frames: list[str]) -> list[ScoredTrajectory]:
    """The scores of every trajectory behind one handle for teacher a, and one for b."""
    return [
        ScoredTrajectory(
            trajectory,
            tuple(
                TeacherScore(teacher, TargetsHandle(frame, index, each.num_tokens, each.num_bytes))
                for teacher, frame in zip("ab", frames, strict=True)
            ),
            reward=0.5,
        )
        for index, (trajectory, each) in enumerate(zip(TRAJECTORIES, TARGETS, strict=True))
    ]


def test_handles_become_targets_of_the_frames_they_stand_for() -> None:
    places, references = payload_of(handles(["first", "second"]))
    assert references == ["first", "second"]
    assert places == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    found = ScoredHeader(handles(["first", "second"]), places).with_targets([encode(TARGETS)] * 2)
    for item, expected in zip(found, SCORED, strict=True):
        assert (item.trajectory.sample_id, item.reward) == (expected.trajectory.sample_id, 0.5)
        for score, wanted in zip(item.scores, expected.scores, strict=True):
            assert score.teacher == wanted.teacher
            assert np.array_equal(score.targets.hidden, wanted.targets.hidden)


def test_a_frame_of_targets_in_memory_comes_back_behind_handles() -> None:
    header, num_bytes, frame = framed(SCORED)
    found = header.with_handles(["somewhere"], num_bytes)
    places, references = payload_of(found)
    assert references == ["somewhere"]
    again = ScoredHeader(found, places).with_targets([frame])
    for item, expected in zip(again, SCORED, strict=True):
        assert np.array_equal(item.scores[1].targets.hidden, expected.scores[1].targets.hidden)
    assert [item.scores[0].targets.num_bytes for item in found] == [each.num_bytes for each in TARGETS]


def test_what_is_in_memory_is_no_payload_and_a_handle_cannot_be_framed() -> None:
    with pytest.raises(EngineError, match="takes targets by handle"):
        payload_of(SCORED)
    with pytest.raises(EngineError, match="a handle holds no targets"):
        framed(handles(["first", "second"]))


def test_what_nobody_scored_travels_without_a_payload() -> None:
    scored = [ScoredTrajectory(trajectory, ()) for trajectory in TRAJECTORIES]
    places, references = payload_of(scored)
    assert (places, references) == ([], [])
    for found in (ScoredHeader(scored, places).with_targets([]), ScoredHeader(scored, places).with_handles([], [])):
        assert [item.trajectory.sample_id for item in found] == [item.sample_id for item in TRAJECTORIES]
        assert all(item.scores == () for item in found)
    header, num_bytes, frame = framed(scored)
    assert num_bytes == []
    assert [item.scores for item in header.with_handles([frame], num_bytes)] == [(), (), ()]
