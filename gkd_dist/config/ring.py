"""Sampling, replay, weights, cluster, evaluation and metrics: how the ring turns."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gkd_dist.config.base import MAX_COUNT, MAX_DURATION_S, Strict


class SamplingConfig(Strict):
    """Sampling in training; every field is sent explicitly."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Most tokens of one completion in training."""
    num_generations: int = Field(default=1, ge=1)
    """Samples of each prompt, within one step; the name is that of TRL's GRPO."""
    temperature: float = Field(default=1.0, gt=0)
    """Its own knob: neither the teacher's temperature nor the student's in the loss."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the most probable ids that together have this probability; 1 means all."""
    top_k: int = Field(default=0, ge=0)
    """0 means no limit."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Leave out ids with less than this share of the largest probability; 0 means none."""
    teacher_mix: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the teacher in the distribution that training samples are drawn from, token by token: alpha of MiniLLM
    (section 2.2), which uses 0.2. The hf sampler alone can mix two models; it mixes their softmaxes at temperature 1,
    and what is above acts on the mixture. Evaluation samples from the student."""


class ReplayConfig(Strict):
    capacity: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    """Most scored sequences of each kind (student, fixed) that wait. None means max_staleness + 1 batches of them, and
    two at least."""
    max_staleness: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    """Most train steps between the oldest version that wrote a sequence and the step that trains on it. None means 1
    where mode=async, and 0 where mode=sync, which knows no other."""
    max_uses: int = Field(default=1, ge=1, le=MAX_COUNT)
    """Most train steps that one sequence of the student takes part in; each is one use, and a line of the ledger with
    its number. Above 1 a learner with nothing fresh takes used ones again instead of waiting, while they are not too
    stale. Fixed pairs are used once. Needs mode=async, and a max_staleness of at least max_uses - 1: a sequence can be
    used at one step of each age. docs/staleness.md has the whole rule."""


class WeightsConfig(Strict):
    bucket_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Weights are published in pieces of about this size; two pieces at most are held beside the model."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """What is published; None means the sampler's dtype."""
    kv_cache: Literal["keep", "recompute"] = "keep"
    """Of sequences in flight while weights change: `keep` goes on with keys and values of the former weights,
    `recompute` computes them anew, which costs one prefill of each."""


CustomResources = dict[str, Annotated[float, Field(gt=0)]]
_RAYS_OWN = {"CPU", "GPU", "memory", "object_store_memory"}


class ClusterConfig(Strict):
    mode: Literal["ray", "local"] = "ray"
    """`local` runs the ring in one process, without Ray."""
    address: str = "local"
    """Ray address: `local` starts a cluster for this run, `auto` or a host:port joins one. For now all nodes of a
    joined cluster must share the file system that holds the models and `output_dir`, under the same paths."""
    num_cpus_per_sampler: float = Field(default=0.5, ge=0)
    """Ray's CPUs that each sampler reserves; reserving does not limit what it uses."""
    num_cpus_per_teacher: float = Field(default=0.5, ge=0)
    """Of each teacher replica."""
    num_cpus_learner: float = Field(default=1, ge=0)
    """Of each rank of the learner."""
    num_cpus_reward: float = Field(default=0, ge=0)
    """Of a reward that is a model, other rewards are computed beside the controller. It works while the teacher does,
    once a step: reserve something where answers are long or the model is large."""
    num_gpus_per_sampler: float = Field(default=0, ge=0)
    """Ray's GPUs that each sampler reserves; 0 runs it on the CPU."""
    num_gpus_per_teacher: float = Field(default=0, ge=0)
    """Of each teacher replica."""
    num_gpus_learner: float = Field(default=0, ge=0)
    """Of each rank of the learner."""
    num_gpus_reward: float = Field(default=0, ge=0)
    """Of a reward that is a model."""
    resources_per_sampler: CustomResources = Field(default_factory=dict)
    """Of Ray's custom resources, such as {sampler: 1}: only nodes that were started with them take such an actor, and
    only they are added for it where a cluster grows by itself."""
    resources_per_teacher: CustomResources = Field(default_factory=dict)
    """Of each teacher replica."""
    resources_learner: CustomResources = Field(default_factory=dict)
    """Of each rank."""
    resources_reward: CustomResources = Field(default_factory=dict)
    """Of a reward that is a model."""
    startup_timeout_s: float = Field(default=600, gt=0, le=MAX_DURATION_S)
    """From the request for an actor until its model is loaded and answers."""
    request_timeout_s: float = Field(default=600, gt=0, le=MAX_DURATION_S)
    """Of one request to an actor: a batch to sample, score or judge."""
    object_store_bytes: int | None = Field(default=None, ge=80_000_000)
    """Size of Ray's object store where this run starts the cluster; None leaves it to Ray. It has to hold the learner's
    newest weights, as published, twice, or three times with a replay.max_staleness above 1, and once more while a late
    sampler loads former ones; and what teachers said about the sequences that wait to be trained on, about
    batch_size x (max_staleness + 1) of them: with hidden targets 2 bytes per token and hidden unit of the teacher. In a
    joined cluster the first is on the learner's node (others hold what their samplers load), the second on those of the
    teachers. What has no room goes to disk, and everything gets slower."""

    @field_validator("address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value if "://" in value else f"ray://{value}")
            is_possible = bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that there cannot be
            is_possible = False
        if not is_possible:
            raise ValueError(f"must be local, auto, or the address of a cluster such as 10.0.0.1:6379, got {value!r}")
        return value

    @field_validator("resources_per_sampler", "resources_per_teacher", "resources_learner", "resources_reward")
    @classmethod
    def _custom(cls, value: dict[str, float]) -> dict[str, float]:
        if own := sorted(_RAYS_OWN & value.keys()):
            raise ValueError(f"{', '.join(own)}: no custom resource; CPUs and GPUs are num_cpus_* and num_gpus_*")
        return value


class EvaluationConfig(Strict):
    enabled: bool = True
    """Before and after training, on the held-out rows."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """None means sampling.max_new_tokens. Prompts must leave room for it too."""
    temperature: float = Field(default=1.0, ge=0)
    """Of the answers that `on_policy` figures are measured on; 0 is greedy."""
    num_samples_shown: int = Field(default=3, ge=0)
    """Held-out prompts that the student, before and after training, and the teachers answer greedily, to be read side
    by side."""
    max_teacher_tokens: int = Field(default=64, ge=0)
    """Most tokens of a teacher's own answer, which takes up to as many scoring requests, once, after training; 0 asks
    for none."""


class MetricsConfig(Strict):
    host: str = "127.0.0.1"
    """Address that the Prometheus endpoint listens at; 0.0.0.0 is all of this machine."""
    port: int | None = Field(default=9400, ge=0, le=65535)
    """Prometheus endpoint of the controller; 0 picks a free port, null serves none."""
    ray_bridge: bool = False
    """Hand the same metrics to Ray, which serves them with its own, as `ray_gkd_*`."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Experiment trackers that get the numbers of every step, under the names of metrics.jsonl, which is always
    written. `tensorboard` writes below the run directory; the others go by their own environment variables."""

    @field_validator("report_to")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a tracker twice; name each once")
        return value
