"""Records to encode: fixed ones for the golden files, strategies for the rest; and how to tamper with a frame."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gkd_dist.targets import FullTargets, HiddenTargets, SampledTargets, TopKTargets
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


def seal(frame: bytes | bytearray | np.ndarray) -> bytes:
    """`frame` with the checksum that its bytes call for, written from the layout and not from the code."""
    data = bytearray(bytes(frame))
    struct.pack_into("<Q", data, 24, xxhash.xxh3_64_intdigest(bytes(data[:24]) + bytes(data[32:])))
    return bytes(data)


def forge(packed_header: bytes, data: bytes = b"", *, total: int | None = None) -> bytes:
    """A sealed frame with these header bytes and this data area."""
    body = packed_header
    if data:
        body += bytes(-(32 + len(body)) % 64) + data
    size = 32 + len(body) if total is None else total
    return seal(struct.pack("<8sIIQQ", b"\x89GKDW\r\n\x1a", 1, len(packed_header), size, 0) + body)


def same(left: Any, right: Any) -> bool:
    """Equality that looks into arrays (bits and dtype) and takes NaN for equal to NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if hasattr(left, "__dataclass_fields__"):
        return all(same(getattr(left, name), getattr(right, name)) for name in left.__dataclass_fields__)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return left == right or (left != left and right != right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


def student_trajectory() -> Trajectory:
    return Trajectory(
        SampleId("golden-1", 17, 2),
        np.array([5, 6, 7], np.int32),
        np.array([11, 12, 13, 2], np.int32),
        Source.STUDENT,
        FinishReason.STOP,
        attempt=3,
        behaviour_log_probs=np.array([-0.25, -1.5, 0.0, -7.0], np.float32),
        versions=VersionRange(4, 6),
    )


def fixed_trajectory() -> Trajectory:
    return Trajectory(
        SampleId("golden-1", 18),
        np.array([9], np.int32),
        np.array([21, 22], np.int32),
        Source.GROUND_TRUTH,
        FinishReason.LENGTH,
    )


def bfloat16_targets() -> HiddenTargets:
    return HiddenTargets(np.arange(0x3F80, 0x3F80 + 12, dtype=np.uint16).reshape(4, 3))


def full_targets() -> FullTargets:
    return FullTargets(np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)))


def topk_targets() -> TopKTargets:
    return TopKTargets(np.array([[3, 0], [1, 2]], np.int32), np.log(np.array([[0.5, 0.25], [0.75, 0.125]], np.float32)))


def scored_trajectories() -> list[ScoredTrajectory]:
    return [
        ScoredTrajectory(student_trajectory(), (TeacherScore("large", bfloat16_targets()),)),
        ScoredTrajectory(
            fixed_trajectory(), (TeacherScore("larger", full_targets()), TeacherScore("few", topk_targets())), 0.5
        ),
    ]


def golden_records() -> dict[str, Sequence[object]]:
    """File name (kind and schema version) to what the file holds."""
    manifest = WeightManifest(
        version=7,
        run_epoch="golden-1-a",
        tensors=(
            TensorEntry("model.embed.weight", "bfloat16", (5, 3), 0, 0, 30),
            TensorEntry("model.norm.weight", "float32", (3,), 0, 64, 12),
            TensorEntry("scale", "float16", (), 1, 0, 2),
        ),
        bucket_bytes=(76, 2),
        digests=("0123456789abcdef" * 2, "fedcba9876543210" * 2),
    )
    report = StepReport(
        7, 8, float("nan"), float("inf"), 1e-4, 8, 512, 1, {"forward": 1.5, "backward": 2.25}, {"teacher_mass": 0.75}
    )
    return {
        "prompt_v1": [
            Prompt(SampleId("golden-1", 17, 2), np.array([5, 6, 7], np.int32)),
            Prompt(SampleId("golden-2", 0), np.array([1], np.int32)),
        ],
        "trajectory_v1": [student_trajectory(), fixed_trajectory()],
        "teacher_targets_v2": [
            bfloat16_targets(),
            full_targets(),
            HiddenTargets(np.array([[0.5, -2.0]], np.float32)),
            topk_targets(),
            SampledTargets(np.array([-0.5, -2.0], np.float32)),
        ],
        "scored_trajectory_v2": scored_trajectories(),
        "train_batch_v2": [
            TrainBatch(
                5,
                tuple(scored_trajectories()),
                num_sequences=8,
                num_tokens=300,
                advantages=np.array([0.5, -1.0], np.float32),
            )
        ],
        "weight_manifest_v1": [manifest],
        "step_report_v2": [report],
        "divergence_report_v1": [DivergenceReport(0.5, 0.25, float("inf"), 16, 900)],
    }


counts = st.integers(0, 2**63 - 1)
names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
sample_ids = st.builds(SampleId, names, counts, counts)
log_prob_values = st.floats(-(2.0**100), 0.0, width=32)
finite_values = st.floats(width=32, allow_nan=False, allow_infinity=False)


def token_ids(min_size: int = 1) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.int32, st.integers(min_size, 6), elements=st.integers(0, 2**31 - 1))


def matrices(dtype: type, elements: st.SearchStrategy, rows: int | None) -> st.SearchStrategy[np.ndarray]:
    num_rows = st.integers(0, 4) if rows is None else st.just(rows)
    return hnp.arrays(dtype, st.tuples(num_rows, st.integers(0, 5)), elements=elements)


def teacher_targets(rows: int | None = None) -> st.SearchStrategy:
    finite_bits = st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7F80 != 0x7F80)
    return st.one_of(
        st.builds(HiddenTargets, matrices(np.uint16, finite_bits, rows)),
        st.builds(HiddenTargets, matrices(np.float32, finite_values, rows)),
        st.builds(FullTargets, matrices(np.float32, log_prob_values, rows)),
        topk_strategy(rows),
        hnp.arrays(np.float32, st.integers(0, 4) if rows is None else rows, elements=log_prob_values).map(
            SampledTargets
        ),
    )


@st.composite
def topk_strategy(draw: st.DrawFn, rows: int | None) -> TopKTargets:
    shape = (draw(st.integers(1, 4)) if rows is None else rows, draw(st.integers(1, 3)))
    ids = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 2**31 - 1)))
    return TopKTargets(ids, draw(hnp.arrays(np.float32, shape, elements=log_prob_values)))


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    completion = draw(token_ids())
    source = draw(st.sampled_from(Source))
    log_probs = versions = None
    if source is Source.STUDENT:
        log_probs = draw(hnp.arrays(np.float32, completion.shape, elements=log_prob_values))
        versions = VersionRange(*sorted(draw(st.tuples(counts, counts))))
    return Trajectory(
        draw(sample_ids),
        draw(token_ids()),
        completion,
        source,
        draw(st.sampled_from(FinishReason)),
        draw(counts),
        log_probs,
        versions,
    )


@st.composite
def scored(draw: st.DrawFn) -> ScoredTrajectory:
    trajectory = draw(trajectories())
    score = st.builds(TeacherScore, names, teacher_targets(trajectory.num_completion_tokens))
    scores = tuple(draw(st.lists(score, max_size=2)))
    return ScoredTrajectory(trajectory, scores, draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)))


@st.composite
def train_batches(draw: st.DrawFn) -> TrainBatch:
    items = draw(st.lists(scored(), min_size=1, max_size=3))
    advantages = draw(st.none() | hnp.arrays(np.float32, len(items), elements=finite_values))
    return TrainBatch(draw(counts), tuple(items), len(items) + draw(st.integers(0, 5)), draw(counts), advantages)


@st.composite
def manifests(draw: st.DrawFn) -> WeightManifest:
    shapes = st.lists(counts, max_size=3).map(tuple)
    entry = st.builds(
        TensorEntry, names, st.sampled_from(["float32", "bfloat16", "float16"]), shapes, counts, counts, counts
    )
    digests = draw(st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=3))
    sizes = draw(st.lists(counts, min_size=len(digests), max_size=len(digests)))
    return WeightManifest(
        draw(counts), draw(names), tuple(draw(st.lists(entry, max_size=3))), tuple(sizes), tuple(digests)
    )


finite_reals = st.floats(allow_nan=False, allow_infinity=False)
RECORDS: dict[str, st.SearchStrategy] = {
    "prompt": st.builds(Prompt, sample_ids, token_ids()),
    "trajectory": trajectories(),
    "targets": teacher_targets(),
    "scored": scored(),
    "train_batch": train_batches(),
    "manifest": manifests(),
    "report": st.builds(
        StepReport,
        counts,
        counts,
        st.floats(),
        st.floats(),
        finite_reals,
        counts,
        counts,
        st.integers(0, 1),
        st.dictionaries(names, finite_reals, max_size=3),
        st.dictionaries(names, finite_reals, max_size=3),
    ),
    "divergence_report": st.builds(DivergenceReport, st.floats(), st.floats(), st.floats(), counts, counts),
}
