"""Tensors lie side by side in their buckets, and spoilt buckets are named."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.errors import WeightsError
from gkd_dist.types import TensorEntry, WeightManifest
from gkd_dist.weights.manifest import ITEM_BYTES, check_layout, digest, plan_buckets, verify

TENSORS = [
    ("embed", "bfloat16", (10, 7)),
    ("norm", "float32", (7,)),
    ("head", "float16", (40, 7)),
    ("scale", "float32", ()),
]

specs = st.lists(
    st.tuples(st.sampled_from(sorted(ITEM_BYTES)), st.lists(st.integers(0, 9), max_size=3).map(tuple)), max_size=12
).map(lambda shapes: [(f"tensor.{i}", *spec) for i, spec in enumerate(shapes)])


def publication() -> tuple[WeightManifest, list[np.ndarray]]:
    plan = plan_buckets(TENSORS, 256)
    generator = np.random.default_rng(3)
    buckets = [generator.integers(0, 256, size, np.uint8) for size in plan.bucket_bytes]
    digests = tuple(digest(bucket) for bucket in buckets)
    return WeightManifest(4, "epoch", plan.tensors, plan.bucket_bytes, digests), buckets


def test_plan_of_a_small_model() -> None:
    plan = plan_buckets(TENSORS, 256)
    places = [(entry.name, entry.bucket, entry.offset_bytes, entry.num_bytes) for entry in plan.tensors]
    # head (560 bytes) is larger than a bucket and gets one of its own; scale opens the next
    assert places == [("embed", 0, 0, 140), ("norm", 0, 192, 28), ("head", 1, 0, 560), ("scale", 2, 0, 4)]
    assert plan.bucket_bytes == (220, 560, 4)


@settings(max_examples=100, deadline=None)
@given(specs, st.integers(1, 2000))
def test_plans_keep_their_promises(tensors: list[tuple[str, str, tuple[int, ...]]], bucket_bytes: int) -> None:
    plan = plan_buckets(tensors, bucket_bytes)
    check_layout(plan.tensors, plan.bucket_bytes)
    assert [(entry.name, entry.dtype, entry.shape) for entry in plan.tensors] == tensors
    taken = [np.zeros(size, np.int64) for size in plan.bucket_bytes]
    for entry in plan.tensors:
        assert entry.offset_bytes % 64 == 0
        taken[entry.bucket][entry.offset_bytes :][: entry.num_bytes] += 1
    assert all(bucket.max(initial=0) <= 1 for bucket in taken)
    assert sum(bucket.sum() for bucket in taken) == sum(entry.num_bytes for entry in plan.tensors)
    for number, size in enumerate(plan.bucket_bytes):
        sizes = [entry.num_bytes for entry in plan.tensors if entry.bucket == number and entry.num_bytes]
        assert size <= bucket_bytes or len(sizes) == 1


def test_plan_of_nothing_is_empty() -> None:
    assert plan_buckets([], 1024).bucket_bytes == ()


@pytest.mark.parametrize(
    ("tensors", "limit", "message"),
    [
        ([("w", "float32", (1,)), ("w", "float32", (2,))], 64, "w appears twice"),
        ([("w", "int8", (1,))], 64, "w is int8; publish it as one of"),
        ([("w", "float32", (-1,))], 64, "impossible shape"),
        (TENSORS, 0, "bucket_bytes must be at least 1"),
    ],
)
def test_impossible_plans_are_refused(tensors: list, limit: int, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        plan_buckets(tensors, limit)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset_bytes": 64}, "norm overlaps embed in bucket 0"),
        ({"offset_bytes": 0}, "overlaps"),
        ({"offset_bytes": 256}, "norm runs out of bucket 0"),
        ({"offset_bytes": 190}, "not at a multiple of 64"),
        ({"offset_bytes": -64}, "not at a multiple of 64"),
        ({"bucket": 3}, "norm is in bucket 3 of 3"),
        ({"bucket": -1}, "norm is in bucket -1 of 3"),
        ({"num_bytes": 24}, "norm takes 28 bytes"),
        ({"shape": (6,)}, "norm takes 24 bytes"),
        ({"dtype": "int64"}, "norm is int64"),
        ({"name": "embed"}, "embed appears twice"),
    ],
)
def test_layouts_that_cannot_be_are_refused(changes: dict, message: str) -> None:
    manifest, buckets = publication()
    tensors = list(manifest.tensors)
    tensors[1] = replace(tensors[1], **changes)
    with pytest.raises(WeightsError, match=message):
        verify(replace(manifest, tensors=tuple(tensors)), buckets)


def test_overlap_is_found_in_any_order() -> None:
    entries = [TensorEntry("b", "float32", (20,), 0, 64, 80), TensorEntry("a", "float32", (17,), 0, 0, 68)]
    for order in (entries, entries[::-1]):
        with pytest.raises(WeightsError, match="b overlaps a"):
            check_layout(order, [256])


def test_whole_publication_passes() -> None:
    manifest, buckets = publication()
    verify(manifest, buckets)
    assert [digest(bucket) for bucket in buckets] == list(manifest.digests)


def test_digest_is_xxh3_128() -> None:
    # test vector of the xxHash specification: XXH3_128bits of no bytes, seed 0
    assert digest(np.empty(0, np.uint8)) == "99aa06d3014798d86001c324468d497f"


def test_each_flipped_bucket_is_named() -> None:
    for number in range(3):
        manifest, buckets = publication()
        buckets[number][-1] ^= 1
        with pytest.raises(WeightsError, match=f"bucket {number} of version 4 has digest"):
            verify(manifest, buckets)


def test_missing_swapped_and_short_buckets_are_refused() -> None:
    manifest, buckets = publication()
    with pytest.raises(WeightsError, match="version 4 has 3 buckets, got 2"):
        verify(manifest, buckets[:2])
    with pytest.raises(WeightsError, match="bucket 0 of version 4 has 560 bytes, the manifest says 220"):
        verify(manifest, [buckets[1], buckets[0], buckets[2]])
    with pytest.raises(WeightsError, match="bucket 2 of version 4 has 3 bytes"):
        verify(manifest, [*buckets[:2], buckets[2][:3]])


@pytest.mark.parametrize(
    "bucket", [b"abcd", np.zeros(1, np.float32), np.zeros((2, 2), np.uint8), np.zeros(8, np.uint8)[::2]]
)
def test_what_is_no_flat_bucket_is_refused(bucket: object) -> None:
    manifest, buckets = publication()
    with pytest.raises(WeightsError, match="bucket 2 of version 4 must be"):
        verify(manifest, [*buckets[:2], bucket])  # type: ignore[list-item]
