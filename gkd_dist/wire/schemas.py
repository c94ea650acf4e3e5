"""The fields of every record kind: one table (floor F2).

A change of this table needs a new schema version and a golden file for it. Frames do not outlive the run that wrote
them, so other versions are refused, not read.
"""

import re
from dataclasses import dataclass

import numpy as np

from gkd_dist.array_faults import bad_log_probs, negative_ids, not_finite, not_finite_bfloat16
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

_DIGEST = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class Schema:
    """How the records of one kind are written."""

    kind: str
    version: int
    column: Column


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


_TOKEN_IDS = Array(np.int32, 1, negative_ids)

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
    behaviour_log_probs=Optional(Array(np.float32, 1, bad_log_probs)),
    versions=Optional(Record(VersionRange, oldest=Integer(), newest=Integer())),
)

_TARGETS = OneOf(
    _targets_kind,
    hidden_bfloat16=Record(HiddenTargets, hidden=Array(np.uint16, 2, not_finite_bfloat16)),
    hidden_float32=Record(HiddenTargets, hidden=Array(np.float32, 2, not_finite)),
    full_float32=Record(FullTargets, log_probs=Array(np.float32, 2, bad_log_probs)),
    topk=Record(TopKTargets, token_ids=Array(np.int32, 2, negative_ids), log_probs=Array(np.float32, 2, bad_log_probs)),
    sampled=Record(SampledTargets, log_probs=Array(np.float32, 1, bad_log_probs)),
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
    advantages=Optional(Array(np.float32, 1, not_finite)),
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
