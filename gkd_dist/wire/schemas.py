"""The fields of every record kind: one table (floor F2).

A change of this table needs a new schema version, a golden file for it, and a reader for the version before.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gkd_dist.errors import WireError
from gkd_dist.targets import FullTargets, HiddenTargets, SampledTargets, TargetsHandle, TopKTargets
from gkd_dist.types import (
    DivergenceReport,
    FinishReason,
    Prompt,
    SampleId,
    ScoredTrajectory,
    Source,
    StepReport,
    TeacherScore,
    TensorEntry,
    TrainBatch,
    Trajectory,
    VersionRange,
    WeightManifest,
)
from gkd_dist.wire.columns import Array, Choice, Column, Integer, Real, Text
from gkd_dist.wire.nesting import Many, Mapping, OneOf, Optional, Record

LOG_PROB_TOLERANCE_NATS = 1e-3
"""How far above 0 rounding may lift a log-prob: float32 log-softmax errs by about 1e-6, bfloat16 logits by more."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_DIGEST = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class Schema:
    """How the records of one kind are written."""

    kind: str
    version: int
    column: Column


def _negative_ids(token_ids: npt.NDArray[Any]) -> str | None:
    return None if token_ids.min() >= 0 else "token ids must not be negative"


def _bad_log_probs(log_probs: npt.NDArray[Any]) -> str | None:
    # min and max pass a NaN on, and every comparison with it is false: no temporary array is needed
    if -_FLOAT32_MAX <= log_probs.min() <= log_probs.max() <= LOG_PROB_TOLERANCE_NATS:
        return None
    return f"log-probs must be finite and at most {LOG_PROB_TOLERANCE_NATS}"


def _not_finite(numbers: npt.NDArray[Any]) -> str | None:
    return None if -_FLOAT32_MAX <= numbers.min() <= numbers.max() <= _FLOAT32_MAX else "must be finite"


def _not_finite_bfloat16(bits: npt.NDArray[Any]) -> str | None:
    # Infinities and NaNs are the bits from 0x7F80 and, with the sign, from 0xFF80 on. Read as signed numbers the first
    # are the largest, read as unsigned numbers the second: two maxima, no temporary array.
    return None if bits.view(np.int16).max() < 0x7F80 and bits.max() < 0xFF80 else "must be finite (bfloat16 bits)"


def _targets_kind(targets: object) -> str:
    if isinstance(targets, HiddenTargets):
        return "hidden_bfloat16" if targets.hidden.dtype == np.dtype(np.uint16) else "hidden_float32"
    if isinstance(targets, FullTargets):
        return "full_float32"
    if isinstance(targets, TopKTargets):
        return "topk"
    if isinstance(targets, SampledTargets):
        return "sampled"
    if isinstance(targets, TargetsHandle):
        raise WireError("record", "a TargetsHandle holds no targets; fetch what it stands for, then encode that")
    raise WireError("record", f"{type(targets).__name__} is no kind of teacher targets")


_TOKEN_IDS = Array(np.int32, 1, _negative_ids)

_SAMPLE_ID = Record(SampleId, run=Text(), prompt_index=Integer(), repeat_index=Integer())

_PROMPT = Record(Prompt, sample_id=_SAMPLE_ID, token_ids=_TOKEN_IDS)

_TRAJECTORY = Record(
    Trajectory,
    sample_id=_SAMPLE_ID,
    prompt_ids=_TOKEN_IDS,
    completion_ids=_TOKEN_IDS,
    source=Choice(tuple(Source)),
    finish_reason=Choice(tuple(FinishReason)),
    attempt=Integer(),
    behaviour_log_probs=Optional(Array(np.float32, 1, _bad_log_probs)),
    versions=Optional(Record(VersionRange, oldest=Integer(), newest=Integer())),
)

_TARGETS = OneOf(
    _targets_kind,
    hidden_bfloat16=Record(HiddenTargets, hidden=Array(np.uint16, 2, _not_finite_bfloat16)),
    hidden_float32=Record(HiddenTargets, hidden=Array(np.float32, 2, _not_finite)),
    full_float32=Record(FullTargets, log_probs=Array(np.float32, 2, _bad_log_probs)),
    topk=Record(
        TopKTargets, token_ids=Array(np.int32, 2, _negative_ids), log_probs=Array(np.float32, 2, _bad_log_probs)
    ),
    sampled=Record(SampledTargets, log_probs=Array(np.float32, 1, _bad_log_probs)),
)

_SCORED = Record(
    ScoredTrajectory,
    trajectory=_TRAJECTORY,
    scores=Many(Record(TeacherScore, teacher=Text(), targets=_TARGETS)),
    reward=Optional(Real()),
)

_TRAIN_BATCH = Record(
    TrainBatch,
    step=Integer(),
    scored=Many(_SCORED),
    num_sequences=Integer(),
    num_tokens=Integer(),
    advantages=Optional(Array(np.float32, 1, _not_finite)),
)

_TENSOR_ENTRY = Record(
    TensorEntry,
    name=Text(),
    dtype=Choice(("float32", "bfloat16", "float16")),
    shape=Many(Integer()),
    bucket=Integer(),
    offset_bytes=Integer(),
    num_bytes=Integer(),
)

_WEIGHT_MANIFEST = Record(
    WeightManifest,
    version=Integer(),
    run_epoch=Text(),
    tensors=Many(_TENSOR_ENTRY),
    bucket_bytes=Many(Integer()),
    digests=Many(Text(lambda text: _DIGEST.match(text) is not None)),
)

_STEP_REPORT = Record(
    StepReport,
    step=Integer(),
    policy_version=Integer(),
    loss=Real(finite=False),  # a skipped step reports the loss and the gradient that made it skip
    grad_norm=Real(finite=False),
    learning_rate=Real(),
    num_sequences=Integer(),
    num_trained_tokens=Integer(),
    num_skipped=Integer(maximum=1),
    seconds=Mapping(),
    quantities=Mapping(),
)

_DIVERGENCE_REPORT = Record(
    DivergenceReport,
    forward_kl=Real(finite=False),
    reverse_kl=Real(finite=False),
    objective=Real(finite=False),
    num_sequences=Integer(),
    num_tokens=Integer(),
)

TARGETS_SCHEMA = Schema("teacher_targets", 2, _TARGETS)

SCHEMAS: dict[type, Schema] = {
    Prompt: Schema("prompt", 1, _PROMPT),
    Trajectory: Schema("trajectory", 1, _TRAJECTORY),
    HiddenTargets: TARGETS_SCHEMA,
    FullTargets: TARGETS_SCHEMA,
    TopKTargets: TARGETS_SCHEMA,
    SampledTargets: TARGETS_SCHEMA,
    ScoredTrajectory: Schema("scored_trajectory", 2, _SCORED),
    TrainBatch: Schema("train_batch", 2, _TRAIN_BATCH),
    WeightManifest: Schema("weight_manifest", 1, _WEIGHT_MANIFEST),
    StepReport: Schema("step_report", 2, _STEP_REPORT),
    DivergenceReport: Schema("divergence_report", 1, _DIVERGENCE_REPORT),
}
