"""Sampler, Teacher, Reward and Learner over actor handles: the F1 interfaces as the controller sees them.

Every call has a deadline, its own or its caller's. An actor's death is EngineError (LearnerLostError for the learner),
silence is DeadlineError (for the learner, where a run needs its answer, it is as good as dead), and an error that the
part raised itself arrives as it was raised. Answers are checked here: one that does not fit the question is
RejectedError, one that is no message is WireError.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from gkd_dist.checks import TeacherCheck
from gkd_dist.cluster.checks import check_lengths, check_trajectories
from gkd_dist.cluster.failures import failure_of
from gkd_dist.cluster.headers import BatchHeader, payload_of
from gkd_dist.cluster.whereabouts import Whereabouts
from gkd_dist.errors import DeadlineError, EngineError, GkdError, LearnerLostError, LostTargetsError, RejectedError
from gkd_dist.targets import CacheUse, TargetsHandle, TeacherTargets
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

_CLOSE_TIMEOUT_S = 10.0


class Proxy:
    """What all proxies share: an actor, its name in messages, and a deadline in seconds."""

    died: type[EngineError] = EngineError

    def __init__(self, actor: "ActorHandle[Any]", name: str, timeout_s: float) -> None:
        self._actor: Any = actor
        """Its class as Ray gives it says `Never` of every method."""
        self._name = name
        self._timeout_s = timeout_s
        self.place: Whereabouts | None = None
        """Known as soon as there is a process."""
        self._spent: Counter[str] = Counter()

    @property
    def places(self) -> list[dict[str, str | int]]:
        """Implements `interfaces.Placed`."""
        return [] if self.place is None else [self.place.facts]

    def time_spent(self) -> Mapping[str, float]:
        """Implements `interfaces.Timed`, for what the answers tell of it."""
        spent, self._spent = self._spent, Counter()
        return spent

    async def locate(self) -> None:
        """Wait for a process; no deadline.

        Raises:
            EngineError: the actor died.
        """
        self.place = await self._started(self._actor.locate.remote())

    async def build(self) -> None:
        """Wait for the part that is built in the process; no deadline.

        Raises:
            GkdError: what the part raised; EngineError where the actor died.
        """
        self.place = await self._started(self._actor.ready.remote())

    async def _started(self, place: Awaitable[Whereabouts]) -> Whereabouts:
        try:
            return await place
        except RayError as error:
            raise failure_of(error, self._name, "start") from error

    async def ping(self) -> None:
        await self._await(self._actor.ping.remote(), "answer a ping")

    async def close(self) -> None:
        """Close the part, then end its process."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._actor.close.remote()
        except (TimeoutError, RayError) as error:
            logger.warning("%s did not close (%s); its process is ended", self._name, type(error).__name__)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process whatever its state, with those that it started; a stopped one does not listen to Ray."""
        with suppress(Exception):
            ray.kill(self._actor)
        if self.place is not None:
            self.place.end()

    async def _await(
        self,
        call: Awaitable[T],
        what: str,
        *,
        lost: type[EngineError] = EngineError,
        unknown: type[EngineError] = EngineError,
        late: type[GkdError] = DeadlineError,
        is_bounded: bool = True,
    ) -> T:
        """
        Args:
            is_bounded: False where the caller has a deadline of its own, and cancels.
        """
        try:
            async with asyncio.timeout(self._timeout_s if is_bounded else None):
                return await call
        except asyncio.CancelledError:
            give_up(call)
            raise
        except RayError as error:  # before TimeoutError: what a part raised may be one too
            raise failure_of(error, self._name, what, died=self.died, lost=lost, unknown=unknown) from error
        except TimeoutError:
            give_up(call)
            raise late(f"{self._name} did not {what} within {self._timeout_s:.0f} s") from None


def give_up(call: object) -> None:
    """Nobody wants the answer any more: the actor is told, so that its engine drops the request."""
    if isinstance(call, (ray.ObjectRef, ray.ObjectRefGenerator)):
        with suppress(Exception):
            ray.cancel(call)


class SamplerProxy(Proxy):
    """Implements `interfaces.Sampler`.

    Args:
        num_ids: ids that the tokenizer knows.
    """

    def __init__(self, actor: "ActorHandle[Any]", name: str, timeout_s: float, num_ids: int) -> None:
        super().__init__(actor, name, timeout_s)
        self._num_ids = num_ids

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        call = self._actor.sample.remote(encode(prompts), params)
        frame, spent = await self._await(call, "sample", unknown=RejectedError)
        self._spent.update(spent)
        trajectories = decode(frame, Trajectory)
        check_trajectories(self._name, trajectories, prompts, params, self._num_ids)
        return trajectories

    async def load_weights(self, publication: WeightPublication) -> int:
        manifest = encode([publication.manifest])
        call = self._actor.load_weights.remote(manifest, *publication.buckets)
        answer: tuple[int, dict[str, float]] = await self._await(
            call, f"load weights of version {publication.manifest.version}"
        )
        version, spent = answer
        self._spent.update(spent)
        return version


class TeacherProxy(Proxy):
    """Implements `interfaces.Teacher` and `Remembering`; the targets come back as handles."""

    _cache_use = CacheUse()

    def cache_use(self) -> CacheUse:
        use, self._cache_use = self._cache_use, CacheUse()
        return use

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        facts_ref, frame_ref = self._actor.score.remote(encode(trajectories))
        facts, use, spent = await self._await(facts_ref, "score", unknown=RejectedError)
        self._cache_use += use
        self._spent.update(spent)
        check_lengths(self._name, [num_tokens for num_tokens, _ in facts], trajectories)
        return [
            TargetsHandle(frame_ref, index, num_tokens, num_bytes)
            for index, (num_tokens, num_bytes) in enumerate(facts)
        ]

    async def verify(self) -> TeacherCheck:
        return await self._await(self._actor.verify.remote(), "verify its answers")

    async def complete(
        self, drafts: Sequence[Trajectory], max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        call = self._actor.complete.remote(encode(drafts), max_new_tokens, tuple(stop_token_ids))
        return await self._await(call, "complete prompts")


class RewardProxy(Proxy):
    """Implements `interfaces.Reward`."""

    async def judge(self, answers: Sequence[Answer]) -> list[float]:
        return await self._await(self._actor.judge.remote(list(answers)), "judge")


class LearnerProxy(Proxy):
    """Implements `interfaces.Learner`; batches hold handles, publications hold object references."""

    died = LearnerLostError

    async def fetch(self, batch: TrainBatch) -> None:
        """Bring the targets to the learner's machine.

        Raises:
            LostTargetsError: they are gone.
        """
        _, frames = payload_of(batch.scored)
        await self._await(self._actor.fetch.remote(*frames), "fetch", lost=LostTargetsError, late=LearnerLostError)

    async def train(self, batch: TrainBatch) -> StepReport:
        places, frames = payload_of(batch.scored)
        call = self._actor.train.remote(BatchHeader(batch, places), *frames)
        report = await self._await(call, "train", lost=LostTargetsError, late=LearnerLostError)
        return decode(report, StepReport)[0]

    async def evaluate(self, batch: TrainBatch) -> DivergenceReport:
        places, frames = payload_of(batch.scored)
        call = self._actor.evaluate.remote(BatchHeader(batch, places), *frames)
        return decode(await self._await(call, "evaluate", lost=LostTargetsError), DivergenceReport)[0]

    async def publish(self) -> WeightPublication:
        manifest, buckets = await self._await(self._published(), "publish", late=LearnerLostError)
        return WeightPublication(manifest, buckets)

    async def _published(self) -> tuple[WeightManifest, tuple[object, ...]]:
        """References alone: the buckets stay where they are. What fails on the way is the last of them."""
        references = [reference async for reference in self._actor.publish.remote()]
        *buckets, manifest = references
        return decode(await manifest, WeightManifest)[0], tuple(buckets)

    async def save(self, path: Path) -> None:
        await self._await(self._actor.save.remote(path), f"save to {path}", late=LearnerLostError)

    async def snapshot(self) -> int:
        return await self._await(self._actor.snapshot.remote(), "take a snapshot", late=LearnerLostError)

    async def write_snapshot(self, folder: Path) -> None:
        """Goes on beside the training, until its caller gives it up (`checkpoint.timeout_s`)."""
        call = self._actor.write_snapshot.remote(folder)
        await self._await(call, f"write a snapshot to {folder}", is_bounded=False)

    async def restore(self, folder: Path) -> int:
        return await self._await(self._actor.restore.remote(folder), f"restore {folder}", late=LearnerLostError)
