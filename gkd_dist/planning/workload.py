"""One train step as planning sees it: who reads and writes how many tokens (floor F2)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gkd_dist.config.models import TeacherConfig
from gkd_dist.config.objective import ObjectiveConfig
from gkd_dist.config.run import RunConfig
from gkd_dist.planning.controller import DRIVERS, DriverCosts
from gkd_dist.planning.shapes import ModelShape

_DTYPE_BYTES = {"bfloat16": 2, "float32": 4}
_OPTIMIZER_BYTES = {"adamw": 36, "adafactor": 24}
"""Moved per trained parameter and step. AdamW in float32: weight, two moments and gradient read (16), weight and
moments written (12), gradient read for its norm and zeroed (8). Adafactor keeps no full second moment."""
_STATE_BYTES = {"adamw": 16, "adafactor": 8}
"""Held per trained parameter: float32 weight, gradient, and moments."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a sequence."""

    prompt: float
    """Mean."""
    completion: float
    """Mean of what the student writes."""
    longest: float
    """Of what the student writes in one batch."""
    fixed: float
    """Mean of the data's own completions, cut as the run cuts them."""
    source: str
    """How they are known."""


@dataclass(frozen=True, slots=True)
class TeacherLoad:
    """What one teacher is asked in a step."""

    shape: ModelShape
    transport: str
    top_k: int
    dtype: str
    share: float
    """Of the sequences that it reads."""
    engine: str
    max_concurrent: int
    """Most sequences that one replica reads together."""
    max_model_len: int
    tensor_parallel: int | None
    """Devices of one replica, where the configuration says so."""

    @property
    def dtype_bytes(self) -> int:
        return _DTYPE_BYTES[self.dtype]

    @property
    def bytes_per_token(self) -> float:
        """On the wire, of one completion token; docs/transports.md."""
        return {
            "hidden": 2.0 * self.shape.hidden_size,
            "topk": 8.0 * self.top_k,
            "full": 4.0 * self.shape.vocab_size,
            "sampled": 4.0,
        }[self.transport]


@dataclass(frozen=True, slots=True)
class Workload:
    """A recipe, reduced to what costs time, bytes and memory."""

    name: str
    student: ModelShape
    teachers: tuple[TeacherLoad, ...]
    lengths: Lengths
    batch_size: int
    num_steps: int
    student_fraction: float
    """Mean of lambda over the run."""
    per_batch: bool
    """Whether a step is all the student's or all fixed (Algorithm 1), or each batch a mixture."""
    max_staleness: int
    """0: synchronous."""
    sampler_dtype: str
    max_concurrent: int
    """Most sequences that one sampler writes at once."""
    max_model_len: int
    sampler_tensor_parallel: int | None
    splits_engines: bool
    """Whether an engine may spread over several devices: vLLM's may."""
    learner_dtype: str
    """Of the matrix products."""
    micro_batch_tokens: int
    recomputes: bool
    trained_params: float
    freezes_body: bool
    """LoRA: the body's weights get no gradient."""
    optimizer_bytes: float
    """Moved per trained parameter."""
    state_bytes: float
    """Held per trained parameter."""
    loss_memory_bytes: int | None
    published_bytes: float
    """Of one policy version."""
    num_generations: int
    """Sequences of the student that go round as one request; synchronous, a replica's whole share is one."""
    driver: DriverCosts
    probe_interval_s: float
    """Infinite where nothing is probed."""

    @property
    def student_sequences(self) -> float:
        """Of a step in which the student writes."""
        return float(self.batch_size) if self.per_batch else self.batch_size * self.student_fraction

    @property
    def student_steps(self) -> float:
        """Share of the steps in which the student writes."""
        if self.student_fraction == 0:
            return 0.0
        return self.student_fraction if self.per_batch else 1.0

    @property
    def publications(self) -> float:
        """Share of the steps whose weights go to the samplers: where no step is given out ahead, only those before one
        in which the student writes."""
        if self.student_fraction == 0:
            return 0.0
        return self.student_steps if self.max_staleness == 0 else 1.0

    @property
    def completion(self) -> float:
        """Mean completion tokens of a trained sequence."""
        own = self.student_fraction
        return own * self.lengths.completion + (1 - own) * self.lengths.fixed

    @property
    def trained_tokens(self) -> float:
        """Completion tokens of a step."""
        return self.batch_size * self.completion

    @property
    def read_tokens(self) -> float:
        """Prompt and completion tokens of a step."""
        return self.batch_size * (self.lengths.prompt + self.completion)

    @property
    def readers(self) -> float:
        """Teachers that a sequence goes to, in the mean."""
        return sum(each.share for each in self.teachers)

    @property
    def head_widths(self) -> float:
        """d_t of the loss: hidden sizes of the teachers whose distributions are rebuilt for one token."""
        return sum(each.share * each.shape.hidden_size for each in self.teachers if each.transport == "hidden")

    @property
    def sampler_dtype_bytes(self) -> int:
        return _DTYPE_BYTES[self.sampler_dtype]


def workload_of(
    config: RunConfig, student: ModelShape, teachers: Mapping[str, ModelShape], lengths: Lengths
) -> Workload:
    """What `config` asks for.

    Args:
        student: as it is trained, so pruned where the configuration prunes it.
        teachers: by name, as `config.named_teachers`.
    """
    sampler, learner, lora = config.sampler, config.learner, config.student.lora
    on_vllm = sampler.engine == "vllm"
    trained = _adapter_params(student, lora.r) if lora is not None else student.num_params
    published = trained if lora is not None and lora.publish == "adapter" else student.num_params
    return Workload(
        name=config.name,
        student=student,
        teachers=tuple(
            _teacher(each, teachers[name], _share(config, name)) for name, each in config.named_teachers.items()
        ),
        lengths=lengths,
        batch_size=learner.batch_size,
        num_steps=learner.max_steps,
        student_fraction=mean_fraction(config.objective, learner.max_steps),
        per_batch=config.objective.mix == "per_batch",
        max_staleness=config.max_staleness,
        sampler_dtype=sampler.dtype,
        max_concurrent=sampler.num_at_once,
        max_model_len=sampler.max_model_len,
        sampler_tensor_parallel=sampler.engine_args.get("tensor_parallel_size"),
        splits_engines=on_vllm,
        learner_dtype="bfloat16" if learner.bf16 else "float32",
        micro_batch_tokens=learner.max_micro_batch_tokens,
        recomputes=learner.gradient_checkpointing,
        trained_params=trained,
        freezes_body=lora is not None,
        optimizer_bytes=_OPTIMIZER_BYTES[learner.optimizer],
        state_bytes=_STATE_BYTES[learner.optimizer],
        loss_memory_bytes=learner.loss_memory_bytes,
        published_bytes=published * _DTYPE_BYTES[config.weights.dtype or sampler.dtype],
        num_generations=config.sampling.num_generations,
        driver=DRIVERS[config.cluster.mode],
        probe_interval_s=config.supervision.probe_interval_s if config.cluster.mode == "ray" else math.inf,
    )


def mean_fraction(objective: ObjectiveConfig, num_steps: int) -> float:
    """Mean of student_fraction over the steps of a run."""
    schedule, start = objective.schedule, objective.student_fraction
    if schedule.type == "constant" or schedule.final is None or num_steps < 1:
        return start
    turn = min(schedule.at_step or num_steps, num_steps)
    before = start if schedule.type == "step" else (start + schedule.final) / 2
    return (before * turn + schedule.final * (num_steps - turn)) / num_steps


def _teacher(config: TeacherConfig, shape: ModelShape, share: float) -> TeacherLoad:
    return TeacherLoad(
        shape=shape,
        transport=config.transport,
        top_k=config.top_k,
        dtype=config.dtype,
        share=share,
        engine=config.engine,
        max_concurrent=config.num_at_once,
        max_model_len=config.max_model_len,
        tensor_parallel=config.engine_args.get("tensor_parallel_size"),
    )


def _share(config: RunConfig, name: str) -> float:
    """Of the sequences that a teacher reads; where they are routed, as if every source had as many rows."""
    if config.objective.combine_teachers != "route":
        return 1.0
    sources = {key: len(each.sources) or 1 for key, each in config.named_teachers.items()}
    return sources[name] / sum(sources.values())


def _adapter_params(student: ModelShape, rank: int) -> float:
    """Of adapters on all linear layers: r (in + out) each, seven of them in a layer, sides between H and 4 H."""
    return rank * student.num_layers * 20.0 * student.hidden_size
