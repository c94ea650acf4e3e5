"""Records that cross a process boundary (floor F0: stdlib and numpy).

Shapes use one legend for the whole package: B sequences, T token positions, N packed valid tokens,
V vocabulary, K teacher top-K, H hidden size, R ranks. Here `P` is the length of one prompt and `L` the
length of one completion; completion token t is predicted at position P + t - 1 of the whole sequence.

Every record checks its own lengths and dtypes when constructed and raises ValueError.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from gkd_dist.targets import TargetsHandle, TeacherTargets

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]


class Source(StrEnum):
    """Where the completion of a trajectory comes from."""

    STUDENT = "student"
    GROUND_TRUTH = "ground_truth"
    TEACHER = "teacher"


class FinishReason(StrEnum):
    """Why a completion ended: a stop token (kept as the last token), or the length limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True, order=True)
class SampleId:
    """Stable name of one sample: the same id means the same prompt, whatever the attempt.

    Example:
        str(SampleId("quickstart-1", 17, 0))  # "quickstart-1/17/0"
    """

    run: str
    prompt_index: int
    """Position in the seeded prompt stream, counted from 0 over all epochs."""
    repeat_index: int = 0
    """Which of several rollouts of the same prompt."""

    def __str__(self) -> str:
        return f"{self.run}/{self.prompt_index}/{self.repeat_index}"


@dataclass(frozen=True, slots=True, order=True)
class VersionRange:
    """Oldest and newest policy version that wrote a trajectory; 0 is the initial student."""

    oldest: int
    newest: int

    def __post_init__(self) -> None:
        if not 0 <= self.oldest <= self.newest:
            raise ValueError(f"need 0 <= oldest <= newest, got {self.oldest} and {self.newest}")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Every field of one sampling request, none left to a model's own generation config."""

    max_new_tokens: int
    temperature: float = 1.0
    """Softmax temperature of the sampled distribution; 0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means no limit."""
    min_p: float = 0.0
    stop_token_ids: tuple[int, ...] = ()
    """A completion ends with (and keeps) the first of these."""
    seed: int = 0
    teacher_mix: float = 0.0
    """Weight of the teacher in the mixture that each token is drawn from; 0: the student alone."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 <= self.teacher_mix < 1:
            raise ValueError(f"teacher_mix must be at least 0 and below 1, got {self.teacher_mix}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One rendered prompt."""

    sample_id: SampleId
    token_ids: IntArray
    """[P] int32, P >= 1."""

    def __post_init__(self) -> None:
        _require("token_ids", self.token_ids, np.int32, 1)
        if self.token_ids.size == 0:
            raise ValueError("a prompt needs at least one token")


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One prompt with one completion, sampled by the student or taken from a fixed pair."""

    sample_id: SampleId
    prompt_ids: IntArray
    """[P] int32, P >= 1."""
    completion_ids: IntArray
    """[L] int32, L >= 1; includes the stop token when there was one."""
    source: Source
    finish_reason: FinishReason
    attempt: int = 0
    behaviour_log_probs: FloatArray | None = None
    """[L] float32 log-probs under the sampling policy; None exactly when the source is not the student."""
    versions: VersionRange | None = None
    """Policy versions that wrote it; None exactly when the source is not the student."""

    def __post_init__(self) -> None:
        _require("prompt_ids", self.prompt_ids, np.int32, 1)
        _require("completion_ids", self.completion_ids, np.int32, 1)
        if self.prompt_ids.size == 0 or self.completion_ids.size == 0:
            raise ValueError("a trajectory needs at least one prompt token and one completion token")
        sampled = self.source is Source.STUDENT
        if sampled != (self.behaviour_log_probs is not None) or sampled != (self.versions is not None):
            raise ValueError("behaviour_log_probs and versions belong to student trajectories, and only to them")
        if self.behaviour_log_probs is not None:
            _require("behaviour_log_probs", self.behaviour_log_probs, np.float32, 1)
            if self.behaviour_log_probs.shape != self.completion_ids.shape:
                raise ValueError(
                    f"behaviour_log_probs has {self.behaviour_log_probs.size} entries "
                    f"for {self.completion_ids.size} completion tokens"
                )

    @property
    def num_completion_tokens(self) -> int:
        return int(self.completion_ids.size)

    @property
    def num_tokens(self) -> int:
        return int(self.prompt_ids.size + self.completion_ids.size)


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion as a reward sees it: text."""

    prompt: str
    """The prompt as the data has it, or its last message; no chat template."""
    completion: str
    """Without special tokens."""
    reference: str | None
    """The completion of the data; None where it has none."""


@dataclass(frozen=True, slots=True)
class TeacherScore:
    """What one teacher says about each completion token of a trajectory."""

    teacher: str
    """Its name in the configuration."""
    targets: TeacherTargets | TargetsHandle


@dataclass(frozen=True, slots=True)
class ScoredTrajectory:
    """A trajectory with what its teachers, and perhaps a reward, say about it."""

    trajectory: Trajectory
    scores: tuple[TeacherScore, ...]
    """Several where teachers are mixed; none where the objective asks nobody."""
    reward: float | None = None
    """Of the whole completion; None where the objective asks for none."""

    def __post_init__(self) -> None:
        for score in self.scores:
            if score.targets.num_tokens != self.trajectory.num_completion_tokens:
                raise ValueError(
                    f"targets of teacher {score.teacher} cover {score.targets.num_tokens} tokens, "
                    f"the completion has {self.trajectory.num_completion_tokens}"
                )


@dataclass(frozen=True, slots=True)
class Kept:
    """What a journal holds, and what it held once."""

    scored: list[ScoredTrajectory]
    lost: dict[str, dict[str, int]]
    """By file: records that could not be read, by reason (`torn` is an end that a crash cut off)."""


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """What one train step consumes.

    The denominators are global (over ranks and accumulation steps), so that the gradient does not depend on
    how the batch is split.
    """

    step: int
    """The policy version before this step."""
    scored: tuple[ScoredTrajectory, ...]
    """Of the whole step, or of one learner rank: that may be none."""
    num_sequences: int
    """Global denominator of the per-sequence mean."""
    num_tokens: int
    """Global denominator of the per-token mean: completion tokens."""
    advantages: FloatArray | None = None
    """[B] float32 rewards less their baseline, 0 for fixed pairs; None where the objective asks for no reward."""

    def __post_init__(self) -> None:
        if self.num_sequences < 1:
            raise ValueError("a train batch needs at least one trajectory")
        if self.num_sequences < len(self.scored):
            raise ValueError(f"num_sequences {self.num_sequences} is less than the {len(self.scored)} sequences here")
        if self.advantages is not None:
            _require("advantages", self.advantages, np.float32, 1)
            if self.advantages.size != len(self.scored):
                raise ValueError(f"{self.advantages.size} advantages for {len(self.scored)} trajectories")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one named tensor lies in a weight bucket."""

    name: str
    dtype: str
    """`float32`, `bfloat16` or `float16`."""
    shape: tuple[int, ...]
    bucket: int
    offset_bytes: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class WeightManifest:
    """What one published version of the student consists of."""

    version: int
    run_epoch: str
    """New on each learner start: a zombie of a former attempt cannot publish."""
    tensors: tuple[TensorEntry, ...]
    bucket_bytes: tuple[int, ...]
    digests: tuple[str, ...]
    """One hex digest (xxh3-128) per bucket."""

    def __post_init__(self) -> None:
        if len(self.bucket_bytes) != len(self.digests):
            raise ValueError(f"{len(self.bucket_bytes)} buckets but {len(self.digests)} digests")

    @property
    def num_bytes(self) -> int:
        return sum(self.bucket_bytes)


@dataclass(frozen=True, slots=True)
class WeightPublication:
    """A manifest with its buckets, or with handles that stand for them."""

    manifest: WeightManifest
    buckets: tuple[object, ...]
    """Per bucket: [num_bytes] uint8, or an opaque handle (a Ray object reference, say)."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What the learner says after one train step."""

    step: int
    """0 for the first step."""
    policy_version: int
    """Version after the step: step + 1."""
    loss: float
    """The configured divergence under the configured reduction, nats."""
    grad_norm: float
    learning_rate: float
    num_sequences: int
    num_trained_tokens: int
    num_skipped: int = 0
    """1 when the step was skipped because loss or gradient was not finite."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by part, seconds."""
    quantities: dict[str, float] = field(default_factory=dict)
    """What else the objective measured (`teacher_mass`, `reward_mean`), by name."""


@dataclass(frozen=True, slots=True)
class DivergenceReport:
    """Held-out divergences between teacher and student, nats per completion token (token mean).

    Under top-K targets they are those of the coarser distributions: lower bounds where the teacher's temperature is 1,
    else estimates. Not a number where the targets cannot tell: sampled log-probs know of the reverse KL alone, and only
    on the student's own completions.
    """

    forward_kl: float
    reverse_kl: float
    objective: float
    """The configured divergence under the token mean."""
    num_sequences: int
    num_tokens: int


def _require(name: str, array: np.ndarray, dtype: type, ndim: int) -> None:
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        raise ValueError(f"{name} must be {np.dtype(dtype)} with {ndim} axes, got {array.dtype} {array.shape}")
