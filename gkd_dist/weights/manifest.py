"""How published weights lie in buckets, and whether they arrived whole (numpy and xxhash only).

A version of the student is a list of flat byte buckets and a `WeightManifest` that says which tensor lies where.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from gkd_dist.errors import WeightsError
from gkd_dist.types import ByteArray, TensorEntry, WeightManifest

ALIGNMENT_BYTES = 64
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per element of the dtypes that can be published."""


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """Where every tensor goes."""

    tensors: tuple[TensorEntry, ...]
    """In the order in which they were given."""
    bucket_bytes: tuple[int, ...]
    """Length of each bucket: where its last tensor ends."""


def plan_buckets(tensors: Sequence[tuple[str, str, tuple[int, ...]]], bucket_bytes: int) -> BucketPlan:
    """Lay out `tensors` in their order in buckets of at most `bucket_bytes`.

    Offsets are multiples of 64. A tensor larger than `bucket_bytes` gets a bucket of its own, the only kind that
    exceeds the limit; no tensor is split. The plan depends on the arguments alone.

    Args:
        tensors: (name, dtype, shape) each.
        bucket_bytes: at least 1.

    Raises:
        WeightsError: a name that appears twice, a dtype that cannot be published, or a limit below 1.
    """
    if bucket_bytes < 1:
        raise WeightsError(f"bucket_bytes must be at least 1, got {bucket_bytes}")
    entries: list[TensorEntry] = []
    ends: list[int] = []
    for name, dtype, shape in tensors:
        num_bytes = tensor_bytes(name, dtype, shape)
        offset = _aligned(ends[-1]) if ends else 0
        if not ends or offset + num_bytes > bucket_bytes:
            ends.append(0)
            offset = 0
        entries.append(TensorEntry(name, dtype, tuple(shape), len(ends) - 1, offset, num_bytes))
        ends[-1] = offset + num_bytes
    plan = BucketPlan(tuple(entries), tuple(ends))
    check_layout(plan.tensors, plan.bucket_bytes)
    return plan


def tensor_bytes(name: str, dtype: str, shape: Sequence[int]) -> int:
    """Bytes of one tensor.

    Raises:
        WeightsError: the dtype cannot be published, or a length is negative.
    """
    if dtype not in ITEM_BYTES:
        raise WeightsError(f"{name} is {dtype}; publish it as one of {', '.join(ITEM_BYTES)}")
    if any(length < 0 for length in shape):
        raise WeightsError(f"{name} has the impossible shape {tuple(shape)}")
    return math.prod(shape) * ITEM_BYTES[dtype]


def check_layout(tensors: Iterable[TensorEntry], bucket_bytes: Sequence[int]) -> None:
    """Check that names are unique and that tensors fit their buckets, side by side.

    Raises:
        WeightsError: naming the tensor, for a name that appears twice, a length that does not follow from dtype and
            shape, an offset that is not a multiple of 64, a bucket that does not exist or that the tensor runs out of,
            and for two tensors that overlap.
    """
    by_bucket: dict[int, list[TensorEntry]] = {}
    names: set[str] = set()
    for entry in tensors:
        if entry.name in names:
            raise WeightsError(f"{entry.name} appears twice; publish each tensor once (tied ones under one name)")
        names.add(entry.name)
        _check_entry(entry, bucket_bytes)
        by_bucket.setdefault(entry.bucket, []).append(entry)
    for entries in by_bucket.values():
        end, before = 0, ""
        for entry in sorted(entries, key=lambda entry: (entry.offset_bytes, entry.num_bytes)):
            if entry.offset_bytes < end:
                raise WeightsError(f"{entry.name} overlaps {before} in bucket {entry.bucket}")
            end, before = entry.offset_bytes + entry.num_bytes, entry.name


def digest(bucket: ByteArray) -> str:
    """xxh3-128 of `bucket` ([num_bytes] uint8, contiguous), 32 hex digits. It finds accidents, not forgery.

    Raises:
        WeightsError: `bucket` is not a contiguous [num_bytes] uint8 array.
    """
    _require_bucket(bucket, "the bucket")
    return str(xxhash.xxh3_128(bucket.data).hexdigest())


def verify(manifest: WeightManifest, buckets: Sequence[ByteArray]) -> None:
    """Check the layout of `manifest`, and that `buckets` are exactly what it describes.

    Args:
        manifest: one version.
        buckets: [num_bytes] uint8 each.

    Raises:
        WeightsError: naming the version and the bucket (or the tensor).
    """
    check_layout(manifest.tensors, manifest.bucket_bytes)
    if len(buckets) != len(manifest.digests):
        raise WeightsError(f"version {manifest.version} has {len(manifest.digests)} buckets, got {len(buckets)}")
    for number, (bucket, num_bytes, expected) in enumerate(
        zip(buckets, manifest.bucket_bytes, manifest.digests, strict=True)
    ):
        where = f"bucket {number} of version {manifest.version}"
        _require_bucket(bucket, where)
        if bucket.size != num_bytes:
            raise WeightsError(f"{where} has {bucket.size} bytes, the manifest says {num_bytes}; publish it again")
        found = digest(bucket)
        if found != expected:
            raise WeightsError(f"{where} has digest {found}, the manifest says {expected}; publish it again")


def _check_entry(entry: TensorEntry, bucket_bytes: Sequence[int]) -> None:
    expected = tensor_bytes(entry.name, entry.dtype, entry.shape)
    if entry.num_bytes != expected:
        raise WeightsError(
            f"{entry.name} takes {expected} bytes as {entry.dtype} {entry.shape}, its entry says {entry.num_bytes}"
        )
    if entry.offset_bytes < 0 or entry.offset_bytes % ALIGNMENT_BYTES:
        raise WeightsError(f"{entry.name} starts at {entry.offset_bytes}, not at a multiple of {ALIGNMENT_BYTES}")
    if not 0 <= entry.bucket < len(bucket_bytes):
        raise WeightsError(f"{entry.name} is in bucket {entry.bucket} of {len(bucket_bytes)}")
    if entry.offset_bytes + entry.num_bytes > bucket_bytes[entry.bucket]:
        raise WeightsError(f"{entry.name} runs out of bucket {entry.bucket} ({bucket_bytes[entry.bucket]} bytes)")


def _require_bucket(bucket: object, where: str) -> None:
    if not isinstance(bucket, np.ndarray) or bucket.dtype != np.dtype(np.uint8) or bucket.ndim != 1:
        raise WeightsError(f"{where} must be a [num_bytes] uint8 array, got {type(bucket).__name__}")
    if not bucket.flags.c_contiguous:
        raise WeightsError(f"{where} must be contiguous")


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
