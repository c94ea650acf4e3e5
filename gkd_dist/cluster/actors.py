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

from gkd_dist.interfaces import Learner, Sampler, Teacher
from gkd_dist.types import (
    ByteArray,
    Prompt,
    SamplingParams,
    ScoredTrajectory,
    TeacherTargets,
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
    async def score(self, trajectories: ByteArray) -> tuple[list[tuple[str, int, int]], ByteArray]:
        """Control facts (teacher, num_tokens, num_bytes) per trajectory, and the targets as one frame."""
        scored = await self._teacher.score(decode(trajectories, Trajectory))
        facts = [(item.teacher, item.targets.num_tokens, item.targets.num_bytes) for item in scored]
        return facts, encode([item.targets for item in scored])

    async def close(self) -> None:
        await self._teacher.close()


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
        batch: supplies step, denominators and trajectories.
        places: (frame number, record number) of the targets of every trajectory.
    """

    def __init__(self, batch: TrainBatch, places: list[tuple[int, int]]) -> None:
        self._step = batch.step
        self._num_sequences = batch.num_sequences
        self._num_tokens = batch.num_tokens
        self._teachers = [item.teacher for item in batch.scored]
        self._trajectories = encode([item.trajectory for item in batch.scored])
        self._places = places

    def batch(self, frames: tuple[ByteArray, ...]) -> TrainBatch:
        """The batch with views into `frames` as its targets."""
        targets: list[list[TeacherTargets]] = [decode_targets(frame, max_bytes=MAX_TARGETS_BYTES) for frame in frames]
        trajectories = decode(self._trajectories, Trajectory)
        scored = [
            ScoredTrajectory(trajectory, targets[frame][record], teacher)
            for trajectory, teacher, (frame, record) in zip(trajectories, self._teachers, self._places, strict=True)
        ]
        return TrainBatch(self._step, tuple(scored), self._num_sequences, self._num_tokens)
