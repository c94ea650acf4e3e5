"""Actor shells: build one part of the ring in a process of its own and forward calls to it.

Arguments and results are frames of `wire/codec.py` as numpy arrays, which Ray moves without copying on get.
Teacher targets and weight buckets stay in the object store; callers get references, and own what these stand for: a
part that dies takes nothing along that it had returned.

A part is built by `ready`, not by the constructor: what a method raises arrives at the caller as it was raised, while
a constructor that fails arrives as the death of the actor.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import ray

from gkd_dist.checks import TeacherCheck
from gkd_dist.cluster.checks import check_candidates
from gkd_dist.cluster.headers import BatchHeader
from gkd_dist.cluster.whereabouts import Whereabouts
from gkd_dist.errors import EngineError
from gkd_dist.fault_points import fault_point
from gkd_dist.interfaces import Learner, Remembering, Reward, Sampler, Teacher, Timed
from gkd_dist.process import end_with_parent
from gkd_dist.serial import SerialThread
from gkd_dist.targets import CacheUse
from gkd_dist.types import (
    Answer,
    ByteArray,
    Prompt,
    SamplingParams,
    Trajectory,
    WeightManifest,
    WeightPublication,
)
from gkd_dist.wire.codec import decode, encode

CONCURRENCY_GROUPS = {"probes": 2, "snapshots": 1}
"""Threads with event loops of their own, beside the one that works: so many calls of each at a time."""

ScoreFacts = tuple[list[tuple[int, int]], CacheUse, dict[str, float]]
"""(num_tokens, num_bytes) per trajectory, what the cache did, and what the scores took."""

Part = TypeVar("Part", bound="Learner | Reward | Sampler | Teacher")


class Shell(Generic[Part]):
    """What all shells share: a part, made by a picklable factory."""

    def __init__(self, make: Callable[[], Part]) -> None:
        end_with_parent()
        self._make = make
        self._made: Part | None = None

    async def locate(self) -> Whereabouts:
        """Answers as soon as there is a process."""
        return Whereabouts.here()

    async def ready(self) -> Whereabouts:
        """Build the part; call once, before anything else that works."""
        fault_point("actor.ready")
        self._made = await SerialThread("builder").run(self._make)
        return Whereabouts.here()

    @ray.method(concurrency_group="probes")
    async def ping(self) -> None:
        """This process answers; parts whose engine may end without it are asked themselves."""

    async def close(self) -> None:
        await self._part.close()

    def _spent(self, call: str, began: float) -> dict[str, float]:
        """What `Timed.time_spent` will say of a call: seconds since `began`, and what the part itself says."""
        own: Mapping[str, float] = self._part.time_spent() if isinstance(self._part, Timed) else {}
        return {**own, call: time.perf_counter() - began}

    @property
    def _part(self) -> Part:
        if self._made is None:
            raise EngineError("this part is not built yet")
        return self._made


class SamplerActor(Shell[Sampler]):
    """A sampler in its own process."""

    @ray.method(concurrency_group="probes")
    async def ping(self) -> None:
        await self._part.ping()

    async def sample(self, prompts: ByteArray, params: SamplingParams) -> tuple[ByteArray, dict[str, float]]:
        """The trajectories as a frame, and what they took here."""
        fault_point("sampler.before_sample")
        asked = decode(prompts, Prompt)
        began = time.perf_counter()
        trajectories = await self._part.sample(asked, params)
        spent = self._spent("sample", began)
        fault_point("sampler.after_sample")
        return encode(trajectories), spent

    async def load_weights(self, manifest: ByteArray, *buckets: ByteArray) -> tuple[int, dict[str, float]]:
        """The version, and what it took here."""
        fault_point("sampler.before_load")
        publication = WeightPublication(decode(manifest, WeightManifest)[0], buckets)
        began = time.perf_counter()
        version = await self._part.load_weights(publication)
        spent = self._spent("load", began)
        fault_point("sampler.after_load")
        return version, spent


class TeacherActor(Shell[Teacher]):
    """A teacher in its own process.

    Args:
        num_ids: ids that the tokenizer knows.
    """

    def __init__(self, make: Callable[[], Teacher], num_ids: int) -> None:
        super().__init__(make)
        self._num_ids = num_ids

    @ray.method(concurrency_group="probes")
    async def ping(self) -> None:
        await self._part.ping()

    @ray.method(num_returns=2)
    async def score(self, trajectories: ByteArray) -> tuple[ScoreFacts, ByteArray]:
        """Control facts, and the targets as one frame."""
        fault_point("teacher.before_score")
        asked = decode(trajectories, Trajectory)
        began = time.perf_counter()
        targets: Any = await self._part.score(asked)
        spent = self._spent("score", began)
        check_candidates(targets, self._num_ids)
        fault_point("teacher.after_score")
        use = self._part.cache_use() if isinstance(self._part, Remembering) else CacheUse()
        return ([(item.num_tokens, item.num_bytes) for item in targets], use, spent), encode(targets)

    async def verify(self) -> TeacherCheck:
        return await self._part.verify()

    async def complete(self, drafts: ByteArray, max_new_tokens: int, stop_token_ids: Sequence[int]) -> list[list[int]]:
        return await self._part.complete(decode(drafts, Trajectory), max_new_tokens, stop_token_ids)


class RewardActor(Shell[Reward]):
    """A reward in its own process. Answers are short texts and travel by value."""

    async def judge(self, answers: list[Answer]) -> list[float]:
        return await self._part.judge(answers)


@runtime_checkable
class Streaming(Protocol):
    """A learner that can give its weights bucket by bucket, then the manifest, and holds one bucket at a time."""

    def stream(self) -> AsyncIterator[ByteArray | WeightManifest]: ...


async def _stream(learner: Learner) -> AsyncIterator[Any]:
    if isinstance(learner, Streaming):
        async for part in learner.stream():
            yield part
            del part
        return
    publication = await learner.publish()
    for bucket in publication.buckets:
        yield bucket
    yield publication.manifest


class LearnerActor(Shell[Learner]):
    """A learner in its own process."""

    async def fetch(self, *frames: ByteArray) -> None:
        """Ray has brought `frames` to this machine when this begins."""

    async def train(self, header: BatchHeader, *frames: ByteArray) -> ByteArray:
        fault_point("learner.before_train")
        report = await self._part.train(header.batch(frames))
        fault_point("learner.after_train")
        return encode([report])

    async def evaluate(self, header: BatchHeader, *frames: ByteArray) -> ByteArray:
        return encode([await self._part.evaluate(header.batch(frames))])

    @ray.method(num_returns="streaming")
    async def publish(self) -> AsyncIterator[Any]:
        """The buckets, then the manifest. They belong to the caller and outlive this learner."""
        async for part in _stream(self._part):
            if isinstance(part, WeightManifest):
                yield encode([part])
            else:
                fault_point("learner.publishing")
                yield part
            del part

    async def save(self, path: Path) -> None:
        await self._part.save(path)

    async def snapshot(self) -> int:
        return await self._part.snapshot()

    @ray.method(concurrency_group="snapshots")
    async def write_snapshot(self, folder: Path) -> None:
        await self._part.write_snapshot(folder)

    async def restore(self, folder: Path) -> int:
        return await self._part.restore(folder)
