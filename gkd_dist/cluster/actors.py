"""Actor shells: build one part of the ring in a process of its own and forward calls to it.

Arguments and results are frames of `wire/codec.py` as numpy arrays, which Ray moves without copying on get.
Teacher targets and weight buckets stay in the object store; callers get references.

A part is built by `ready`, not by the constructor: what a method raises arrives at the caller as it was raised, while
a constructor that fails arrives as the death of the actor.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import ray

from gkd_dist.checks import TeacherCheck
from gkd_dist.interfaces import Learner, Reward, Sampler, Teacher
from gkd_dist.targets import TeacherTargets
from gkd_dist.types import (
    Answer,
    ByteArray,
    Prompt,
    SamplingParams,
    ScoredTrajectory,
    TeacherScore,
    TrainBatch,
    Trajectory,
    WeightManifest,
    WeightPublication,
)
from gkd_dist.wire.codec import decode, decode_targets, encode

MAX_TARGETS_BYTES = 8 << 30
"""Of one message of teacher targets; they come from our own teachers and stay in shared memory."""


class SamplerActor:
    """A sampler in its own process."""

    def __init__(self, make: Callable[[], Sampler]) -> None:
        self._make = make

    async def ready(self) -> None:
        """Build the sampler; call once, before anything else."""
        self._sampler = await asyncio.to_thread(self._make)

    async def sample(self, prompts: ByteArray, params: SamplingParams) -> ByteArray:
        return encode(await self._sampler.sample(decode(prompts, Prompt), params))

    async def load_weights(self, manifest: ByteArray, *buckets: ByteArray) -> int:
        return await self._sampler.load_weights(WeightPublication(decode(manifest, WeightManifest)[0], buckets))

    async def close(self) -> None:
        await self._sampler.close()


class TeacherActor:
    """A teacher in its own process."""

    def __init__(self, make: Callable[[], Teacher]) -> None:
        self._make = make

    async def ready(self) -> None:
        """Build the teacher; call once, before anything else."""
        self._teacher = await asyncio.to_thread(self._make)

    @ray.method(num_returns=2)
    async def score(self, trajectories: ByteArray) -> tuple[list[tuple[int, int]], ByteArray]:
        """Control facts (num_tokens, num_bytes) per trajectory, and the targets as one frame."""
        targets = await self._teacher.score(decode(trajectories, Trajectory))
        return [(item.num_tokens, item.num_bytes) for item in targets], encode(targets)

    async def verify(self) -> TeacherCheck:
        return await self._teacher.verify()

    async def close(self) -> None:
        await self._teacher.close()


class RewardActor:
    """A reward in its own process. Answers are short texts and travel by value."""

    def __init__(self, make: Callable[[], Reward]) -> None:
        self._make = make

    async def ready(self) -> None:
        """Build the reward; call once, before anything else."""
        self._reward = await asyncio.to_thread(self._make)

    async def judge(self, answers: list[Answer]) -> list[float]:
        return await self._reward.judge(answers)

    async def close(self) -> None:
        await self._reward.close()


class LearnerActor:
    """A learner in its own process."""

    def __init__(self, make: Callable[[], Learner]) -> None:
        self._make = make

    async def ready(self) -> None:
        """Build the learner; call once, before anything else."""
        self._learner = await asyncio.to_thread(self._make)

    async def train(self, header: "BatchHeader", *frames: ByteArray) -> ByteArray:
        return encode([await self._learner.train(header.batch(frames))])

    async def evaluate(self, header: "BatchHeader", *frames: ByteArray) -> ByteArray:
        return encode([await self._learner.evaluate(header.batch(frames))])

    async def publish(self) -> tuple[ByteArray, list[ray.ObjectRef]]:
        """The manifest, and one object reference per bucket."""
        publication = await self._learner.publish()
        return encode([publication.manifest]), [ray.put(bucket) for bucket in publication.buckets]

    async def save(self, path: Path) -> None:
        await self._learner.save(path)

    async def close(self) -> None:
        await self._learner.close()


class BatchHeader:
    """A train batch without its payload: trajectories, and which record of which frame holds the targets.

    Args:
        batch: supplies everything but the targets.
        places: (frame number, record number) of every score, trajectory after trajectory.
    """

    def __init__(self, batch: TrainBatch, places: list[tuple[int, int]]) -> None:
        self._step = batch.step
        self._num_sequences = batch.num_sequences
        self._num_tokens = batch.num_tokens
        self._advantages = batch.advantages
        self._teachers = [[score.teacher for score in item.scores] for item in batch.scored]
        self._rewards = [item.reward for item in batch.scored]
        self._trajectories = encode([item.trajectory for item in batch.scored])
        self._places = places

    def batch(self, frames: tuple[ByteArray, ...]) -> TrainBatch:
        """The batch with views into `frames` as its targets."""
        targets: list[list[TeacherTargets]] = [decode_targets(frame, max_bytes=MAX_TARGETS_BYTES) for frame in frames]
        places = iter(self._places)
        scored = []
        for trajectory, teachers, reward in zip(
            decode(self._trajectories, Trajectory), self._teachers, self._rewards, strict=True
        ):
            found = [(teacher, *next(places)) for teacher in teachers]
            scores = tuple(TeacherScore(teacher, targets[frame][record]) for teacher, frame, record in found)
            scored.append(ScoredTrajectory(trajectory, scores, reward))
        return TrainBatch(self._step, tuple(scored), self._num_sequences, self._num_tokens, self._advantages)
