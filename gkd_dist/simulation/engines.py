"""Samplers, teachers and a learner that compute nothing and take the time that rates say."""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from gkd_dist.checks import TeacherCheck, Tolerance
from gkd_dist.errors import DeadlineError, EngineError
from gkd_dist.simulation.driver import Driver
from gkd_dist.simulation.scenario import LearnerRates, SamplerRates, TeacherRates
from gkd_dist.simulation.shared import Shared
from gkd_dist.targets import TargetsHandle, TeacherTargets
from gkd_dist.types import (
    DivergenceReport,
    FinishReason,
    Prompt,
    SampleId,
    SamplingParams,
    Source,
    StepReport,
    TrainBatch,
    Trajectory,
    VersionRange,
    WeightManifest,
    WeightPublication,
)

MOST_TOKENS = 1 << 16
_IDS = np.zeros(MOST_TOKENS, dtype=np.int32)
_LOG_PROBS = np.zeros(MOST_TOKENS, dtype=np.float32)
"""All answers are views of these: what is simulated is time, not text."""


class Mortal:
    """An actor behind a driver, with a deadline for every call; when it dies, all that it has in hand fails.

    Args:
        name: in messages.
        timeout_s: of each call.
    """

    def __init__(self, name: str, driver: Driver, timeout_s: float) -> None:
        self.name = name
        self._driver = driver
        self._timeout_s = timeout_s
        self._deadlines: dict[asyncio.Timeout, None] = {}
        """Of the calls in hand, in their order: a set would end them in another one each time."""
        self.is_alive = True

    def die(self) -> None:
        """As by SIGKILL."""
        self.is_alive = False
        now = asyncio.get_running_loop().time()
        for deadline in list(self._deadlines):
            deadline.reschedule(now)

    async def ping(self) -> None:
        async with self._called():
            """It lives."""

    async def close(self) -> None:
        self.is_alive = False

    @asynccontextmanager
    async def _called(self, num_sequences: int = 0) -> AsyncIterator[None]:
        """The block is a call of this actor, which costs the driver its share.

        Raises:
            EngineError: it is dead, or dies.
            DeadlineError: it takes longer than it may.
        """
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                self._deadlines[deadline] = None
                await self._driver.call(num_sequences)
                if not self.is_alive:
                    raise EngineError(f"{self.name} is dead")
                yield
        except TimeoutError:
            if self.is_alive:
                raise DeadlineError(f"{self.name} did not answer within {self._timeout_s:g} s") from None
            raise EngineError(f"{self.name} died") from None
        finally:
            self._deadlines.pop(deadline, None)


class SimulatedSampler(Mortal):
    """Implements `interfaces.Sampler`. The length of an answer depends on the seed and the sample's id alone, so an
    answer that is asked for again is as long as it was.

    Args:
        receive: returns when a version is on this sampler's node.
    """

    def __init__(
        self,
        name: str,
        driver: Driver,
        timeout_s: float,
        rates: SamplerRates,
        receive: Callable[[int], Awaitable[None]],
        seed: int,
    ) -> None:
        super().__init__(name, driver, timeout_s)
        self._rates = rates
        self._receive = receive
        self._seed = seed
        self._version = 0
        self._loading = asyncio.Lock()
        self.batch = Shared(lambda number: 1 / rates.step_of(number), rates.max_running)

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        async with self._called(len(prompts)):
            if len(prompts) == 1:
                return [await self._answer(prompts[0], params)]
            return list(await asyncio.gather(*(self._answer(prompt, params) for prompt in prompts)))

    async def load_weights(self, publication: WeightPublication) -> int:
        version = publication.manifest.version
        async with self._called():
            await self._receive(version)
            async with self._loading:
                self.batch.hold()
                try:
                    await asyncio.sleep(self._rates.load_s)
                    self._version = max(self._version, version)
                finally:
                    self.batch.go_on()
            return version

    async def _answer(self, prompt: Prompt, params: SamplingParams) -> Trajectory:
        rates = self._rates
        length = min(answer_tokens(rates, self._seed, prompt.sample_id), params.max_new_tokens)
        await self.batch.join()
        oldest = self._version
        await self.batch.flow(length + rates.prompt_token_cost * prompt.token_ids.size)
        return Trajectory(
            sample_id=prompt.sample_id,
            prompt_ids=prompt.token_ids,
            completion_ids=_IDS[:length],
            source=Source.STUDENT,
            finish_reason=FinishReason.LENGTH if length >= params.max_new_tokens else FinishReason.STOP,
            behaviour_log_probs=_LOG_PROBS[:length],
            versions=VersionRange(oldest, self._version),
        )


def answer_tokens(rates: SamplerRates, seed: int, sample_id: SampleId) -> int:
    """Length of the answer to a prompt."""
    dice = random.Random((seed << 48) ^ (sample_id.prompt_index << 8) ^ sample_id.repeat_index)
    length = math.exp(math.log(rates.median_tokens) + rates.sigma * dice.gauss(0.0, 1.0))
    return max(1, min(round(length), rates.max_tokens))


class SimulatedTeacher(Mortal):
    """Implements `interfaces.Teacher`: one request after the other."""

    def __init__(self, name: str, driver: Driver, timeout_s: float, rates: TeacherRates) -> None:
        super().__init__(name, driver, timeout_s)
        self.batch = Shared(lambda _: rates.tokens_per_s, 1)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        async with self._called(len(trajectories)):
            await self.batch.join()
            await self.batch.flow(sum(each.num_tokens for each in trajectories))
            return [
                TargetsHandle(None, index, each.num_completion_tokens, 0) for index, each in enumerate(trajectories)
            ]

    async def verify(self) -> TeacherCheck:
        async with self._called():
            return TeacherCheck("nothing: it is simulated", 1, 1.0, 0.0, 0.0, Tolerance(1e-3, 1e-3))

    async def complete(
        self,
        drafts: Sequence[Trajectory],
        max_new_tokens: int,  # noqa: ARG002 - of the Protocol
        stop_token_ids: Sequence[int],  # noqa: ARG002
    ) -> list[list[int]]:
        return [[] for _ in drafts]


class SimulatedLearner:
    """Implements `interfaces.Learner` for one shard: a step begins when the batches of all shards are there.

    Args:
        barrier: of all shards.
    """

    def __init__(self, driver: Driver, rates: LearnerRates, barrier: asyncio.Barrier) -> None:
        self._driver = driver
        self._rates = rates
        self._barrier = barrier
        self._num_steps = 0
        self.busy_s = 0.0

    async def train(self, batch: TrainBatch) -> StepReport:
        await self._called(self._rates.num_calls - self._rates.num_calls // 2)
        await self._barrier.wait()
        self.busy_s += self._rates.step_s
        await asyncio.sleep(self._rates.step_s)
        self._num_steps += 1
        num_tokens = sum(each.trajectory.num_completion_tokens for each in batch.scored)
        return StepReport(batch.step, self._num_steps, 1.0, 1.0, 1e-4, len(batch.scored), num_tokens)

    async def _called(self, times: int) -> None:
        for _ in range(times):
            await self._driver.call()

    async def publish(self) -> WeightPublication:
        await self._called(self._rates.num_calls // 2)
        await asyncio.sleep(self._rates.gather_s)
        return WeightPublication(WeightManifest(self._num_steps, "simulated", (), (), ()), ())

    async def evaluate(self, batch: TrainBatch) -> DivergenceReport:
        return DivergenceReport(0.0, 0.0, 0.0, len(batch.scored), 0)

    async def save(self, path: Path) -> None:
        """Nothing is there to be saved."""

    async def snapshot(self) -> int:
        return self._num_steps

    async def write_snapshot(self, folder: Path) -> None:
        """As `save`."""

    async def restore(self, folder: Path) -> int:  # noqa: ARG002 - of the Protocol
        return self._num_steps

    async def close(self) -> None:
        """Nothing is open."""
