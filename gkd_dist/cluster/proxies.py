"""Sampler, Teacher, Reward and Learner over actor handles: the F1 interfaces as the controller sees them.

Every call has a deadline. An actor's death is EngineError, silence is DeadlineError, and an error that the part
raised itself arrives as it was raised.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from gkd_dist.checks import TeacherCheck
from gkd_dist.cluster.actors import BatchHeader
from gkd_dist.errors import DeadlineError, EngineError, GkdError
from gkd_dist.targets import TargetsHandle, TeacherTargets
from gkd_dist.types import (
    Answer,
    DivergenceReport,
    Prompt,
    SamplingParams,
    StepReport,
    TrainBatch,
    Trajectory,
    WeightManifest,
    WeightPublication,
)
from gkd_dist.wire.codec import decode, encode

logger = logging.getLogger(__name__)

T = TypeVar("T")


def failure_of(error: RayError, name: str, what: str) -> GkdError:
    """What a failed call means: the error that the part raised on purpose, else EngineError with one line of reason.

    Ray's messages run over many lines (remote traceback, ids, addresses); those are logged at debug level.

    Args:
        name: of the part.
        what: it was asked to do, as in `sample`.
    """
    if isinstance(error, RayTaskError) and isinstance(error.cause, GkdError):
        return error.cause
    logger.debug("%s, asked to %s: %s", name, what, error)
    if isinstance(error, RayTaskError):
        return EngineError(f"{name} failed to {what}: {_first_line(repr(error.cause))}")
    if isinstance(error, RayActorError):
        return EngineError(f"{name} died while asked to {what}: {_first_line(str(error))}")
    return EngineError(f"{name} failed to {what}: {type(error).__name__}: {_first_line(str(error))}")


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


class Proxy:
    """What all proxies share: an actor, its name in messages, and a deadline in seconds."""

    def __init__(self, actor: ActorHandle, name: str, timeout_s: float) -> None:
        self._actor = actor
        self._name = name
        self._timeout_s = timeout_s

    async def close(self) -> None:
        """Close the part, then end its process."""
        try:
            await asyncio.wait_for(self._actor.close.remote(), timeout=10)
        except (TimeoutError, RayError) as error:
            logger.warning("%s did not close (%s); its process is ended", self._name, type(error).__name__)
        finally:
            ray.kill(self._actor)

    async def _await(self, call: Awaitable[T], what: str) -> T:
        try:
            return await asyncio.wait_for(_as_coroutine(call), self._timeout_s)
        except RayError as error:  # before TimeoutError: what a part raised may be one too
            raise failure_of(error, self._name, what) from error
        except TimeoutError:
            raise DeadlineError(f"{self._name} did not {what} within {self._timeout_s:.0f} s") from None


async def _as_coroutine(call: Awaitable[T]) -> T:
    return await call


class SamplerProxy(Proxy):
    """Implements `interfaces.Sampler`."""

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        frame = await self._await(self._actor.sample.remote(encode(prompts), params), "sample")
        return decode(frame, Trajectory)

    async def load_weights(self, publication: WeightPublication) -> int:
        manifest = encode([publication.manifest])
        call = self._actor.load_weights.remote(manifest, *publication.buckets)
        return await self._await(call, f"load weights of version {publication.manifest.version}")


class TeacherProxy(Proxy):
    """Implements `interfaces.Teacher`; the targets come back as handles."""

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        facts_ref, frame_ref = self._actor.score.remote(encode(trajectories))
        facts = await self._await(facts_ref, "score")
        return [
            TargetsHandle(frame_ref, index, num_tokens, num_bytes)
            for index, (num_tokens, num_bytes) in enumerate(facts)
        ]

    async def verify(self) -> TeacherCheck:
        return await self._await(self._actor.verify.remote(), "verify its answers")


class RewardProxy(Proxy):
    """Implements `interfaces.Reward`."""

    async def judge(self, answers: Sequence[Answer]) -> list[float]:
        return await self._await(self._actor.judge.remote(list(answers)), "judge")


class LearnerProxy(Proxy):
    """Implements `interfaces.Learner`; batches hold handles, publications hold object references."""

    async def train(self, batch: TrainBatch) -> StepReport:
        header, frames = _split(batch)
        frame = await self._await(self._actor.train.remote(header, *frames), "train")
        return decode(frame, StepReport)[0]

    async def evaluate(self, batch: TrainBatch) -> DivergenceReport:
        header, frames = _split(batch)
        frame = await self._await(self._actor.evaluate.remote(header, *frames), "evaluate")
        return decode(frame, DivergenceReport)[0]

    async def publish(self) -> WeightPublication:
        manifest, buckets = await self._await(self._actor.publish.remote(), "publish")
        return WeightPublication(decode(manifest, WeightManifest)[0], tuple(buckets))

    async def save(self, path: Path) -> None:
        await self._await(self._actor.save.remote(path), f"save to {path}")


def _split(batch: TrainBatch) -> tuple[BatchHeader, list[Any]]:
    """The batch as a header, and the distinct object references that hold its targets."""
    references: dict[Any, int] = {}
    places = []
    for item in batch.scored:
        for score in item.scores:
            if not isinstance(score.targets, TargetsHandle):
                raise EngineError("a learner behind Ray takes targets by handle; score them with a teacher behind Ray")
            frame = references.setdefault(score.targets.reference, len(references))
            places.append((frame, score.targets.index))
    return BatchHeader(batch, places), list(references)
