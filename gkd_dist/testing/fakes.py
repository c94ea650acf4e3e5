"""Fakes of the ring's parts (floor F2): deterministic, instant, and honest about what they were asked.

They satisfy the contract suites, so that code tested against them meets the same rules as the real parts.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gkd_dist.checks import TeacherCheck, Tolerance
from gkd_dist.errors import EngineError, WeightsError
from gkd_dist.targets import (
    FullTargets,
    HiddenTargets,
    SampledTargets,
    TargetsHandle,
    TeacherTargets,
    TopKTargets,
)
from gkd_dist.types import (
    Answer,
    DivergenceReport,
    FinishReason,
    Prompt,
    SamplingParams,
    Source,
    StepReport,
    TensorEntry,
    TrainBatch,
    Trajectory,
    VersionRange,
    WeightManifest,
    WeightPublication,
)


class FakeSampler:
    """Implements `interfaces.Sampler`: token t of a completion is (last prompt id + version + t) modulo 50.

    Ends with the first stop token that comes up, else at the length limit.
    """

    def __init__(self, policy_version: int = 0) -> None:
        self.policy_version = policy_version
        self.calls: list[list[Prompt]] = []
        self.closed = False
        self._run_epoch: str | None = None

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        self.calls.append(list(prompts))
        return [self._answer(prompt, params) for prompt in prompts]

    async def load_weights(self, publication: WeightPublication) -> int:
        manifest = publication.manifest
        own, offered = self._run_epoch or "", manifest.run_epoch
        if offered < own or (own in ("", offered) and manifest.version < self.policy_version):
            raise WeightsError(f"version {manifest.version} of {manifest.run_epoch} is stale")
        if [(entry.name, entry.shape) for entry in manifest.tensors] != [("weight", (1,))]:
            raise WeightsError(f"version {manifest.version} does not match this student")
        for bucket, num_bytes in zip(publication.buckets, manifest.bucket_bytes, strict=True):
            if np.asarray(bucket).size != num_bytes:
                raise WeightsError(f"a bucket of version {manifest.version} has the wrong size")
        self._run_epoch = manifest.run_epoch
        self.policy_version = manifest.version
        return self.policy_version

    async def ping(self) -> None:
        """Alive."""

    async def close(self) -> None:
        self.closed = True

    def _answer(self, prompt: Prompt, params: SamplingParams) -> Trajectory:
        first = int(prompt.token_ids[-1]) + self.policy_version
        ids = (first + np.arange(params.max_new_tokens, dtype=np.int32)) % 50
        stops = np.flatnonzero(np.isin(ids, params.stop_token_ids))
        ids = ids[: stops[0] + 1] if stops.size else ids
        return Trajectory(
            sample_id=prompt.sample_id,
            prompt_ids=prompt.token_ids,
            completion_ids=ids.astype(np.int32),
            source=Source.STUDENT,
            finish_reason=FinishReason.STOP if stops.size else FinishReason.LENGTH,
            behaviour_log_probs=np.full(ids.size, -0.5, dtype=np.float32),
            versions=VersionRange(self.policy_version, self.policy_version),
        )


class FakeTeacher:
    """Implements `interfaces.Teacher` with every transport.

    `hidden`: the state at every position is that token's id, repeated. The others: half of the probability is on the
    token itself, half of the rest on the next id, and so on through `num_ids` ids.

    Args:
        gaps_nats: what its checks find, one after the other; 0 afterwards.
    """

    def __init__(
        self,
        hidden_size: int = 4,
        transport: str = "hidden",
        num_ids: int = 128,
        top_k: int = 6,
        gaps_nats: Sequence[float] = (),
    ) -> None:
        self._gaps_nats = list(gaps_nats)
        self.num_checks = 0
        self.calls: list[list[Trajectory]] = []
        self.closed = False
        self._hidden_size = hidden_size
        self._transport = transport
        self._num_ids = num_ids
        self._top_k = top_k

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        self.calls.append(list(trajectories))
        return [self._targets(trajectory) for trajectory in trajectories]

    async def verify(self) -> TeacherCheck:
        self.num_checks += 1
        gap = self._gaps_nats.pop(0) if self._gaps_nats else 0.0
        return TeacherCheck("its first answers", 1, 1.0, gap, gap, Tolerance(1e-3, 1e-3))

    async def complete(
        self, drafts: Sequence[Trajectory], max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """The drafts backwards, without stop tokens."""
        backwards = [draft.completion_ids[::-1].tolist() for draft in drafts]
        return [[token for token in each if token not in stop_token_ids][:max_new_tokens] for each in backwards]

    async def ping(self) -> None:
        """Alive."""

    async def close(self) -> None:
        self.closed = True

    def _targets(self, trajectory: Trajectory) -> TeacherTargets:
        ids = trajectory.completion_ids
        if self._transport == "hidden":
            return HiddenTargets(np.repeat(ids.astype(np.float32)[:, None], self._hidden_size, axis=1))
        falling = -np.log(2.0) * np.arange(1, self._num_ids + 1) - np.log1p(-(0.5**self._num_ids))
        if self._transport == "sampled":
            return SampledTargets(np.full(ids.size, falling[0], dtype=np.float32))
        by_rank = (ids[:, None] + np.arange(self._num_ids, dtype=np.int32)) % self._num_ids
        log_probs = np.broadcast_to(falling.astype(np.float32), by_rank.shape)
        if self._transport == "topk":
            return TopKTargets(by_rank[:, : self._top_k], log_probs[:, : self._top_k].copy())
        dense = np.empty_like(log_probs)
        np.put_along_axis(dense, by_rank.astype(np.int64), log_probs, axis=1)
        return FullTargets(dense)


class FakeReward:
    """Implements `interfaces.Reward`: the number of words of the completion."""

    def __init__(self) -> None:
        self.calls: list[list[Answer]] = []
        self.closed = False

    async def judge(self, answers: Sequence[Answer]) -> list[float]:
        self.calls.append(list(answers))
        return [float(len(answer.completion.split())) for answer in answers]

    async def close(self) -> None:
        self.closed = True


class FakeLearner:
    """Implements `interfaces.Learner`: one weight that counts steps; the loss is 1 / (1 + step), the mass 0.75."""

    def __init__(self, run_epoch: str = "fake") -> None:
        self.batches: list[TrainBatch] = []
        self.saved: list[Path] = []
        self.closed = False
        self._run_epoch = run_epoch
        self._first = 0
        self._snapshot = 0

    @property
    def policy_version(self) -> int:
        return self._first + len(self.batches)

    async def train(self, batch: TrainBatch) -> StepReport:
        if batch.step != self.policy_version:
            raise EngineError(f"the learner is at step {self.policy_version}, the batch is for step {batch.step}")
        self.batches.append(batch)
        return StepReport(
            step=batch.step,
            policy_version=self.policy_version,
            loss=1.0 / (1 + batch.step),
            grad_norm=1.0,
            learning_rate=1e-4,
            num_sequences=len(batch.scored),
            num_trained_tokens=sum(item.trajectory.num_completion_tokens for item in batch.scored),
            quantities={"teacher_mass": 0.75, "behaviour_gap_mean_nats": 0.01, "behaviour_gap_max_nats": 0.1},
        )

    async def evaluate(self, batch: TrainBatch) -> DivergenceReport:
        nats = 1.0 / (1 + self.policy_version)
        num_tokens = sum(item.trajectory.num_completion_tokens for item in batch.scored)
        return DivergenceReport(nats, nats, nats, len(batch.scored), num_tokens)

    async def publish(self) -> WeightPublication:
        bucket = np.asarray([self.policy_version], dtype=np.float32).view(np.uint8)
        entry = TensorEntry("weight", "float32", (1,), bucket=0, offset_bytes=0, num_bytes=4)
        manifest = WeightManifest(self.policy_version, self._run_epoch, (entry,), (4,), ("0" * 32,))
        return WeightPublication(manifest, (bucket,))

    async def save(self, path: Path) -> None:
        self.saved.append(path)

    async def snapshot(self) -> int:
        self._snapshot = self.policy_version
        return self._snapshot

    async def write_snapshot(self, folder: Path) -> None:
        (folder / "weight.txt").write_text(str(self._snapshot))

    async def restore(self, folder: Path) -> int:
        self._first = int((folder / "weight.txt").read_text())
        self.batches = []
        return self.policy_version

    async def close(self) -> None:
        self.closed = True


class FakeMetrics:
    """Implements `interfaces.Metrics`: remembers every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float, dict[str, str]]] = []

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        self.calls.append(("count", name, amount, labels))

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.calls.append(("gauge", name, value, labels))

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.calls.append(("observe", name, value, labels))


class FakeSink:
    """Implements `interfaces.RecordSink`: keeps the records."""

    def __init__(self) -> None:
        self.records: list[dict[str, float | int | str]] = []

    def write(self, record: dict[str, float | int | str]) -> None:
        self.records.append(record)

    def close(self) -> None:
        """Nothing to close."""
