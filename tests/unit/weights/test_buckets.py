"""Tensors become buckets of bytes, and views of them come back."""

import warnings

import numpy as np
import pytest
import torch

from gkd_dist.array_faults import not_finite_float16
from gkd_dist.errors import EngineError
from gkd_dist.weights.manifest import plan_buckets
from gkd_dist.weights.tensors import fill_bucket, read_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def bucket_of(tensors: list[torch.Tensor], dtype: str) -> tuple[np.ndarray, tuple]:
    plan = plan_buckets([(f"t{number}", dtype, tuple(each.shape)) for number, each in enumerate(tensors)], 1 << 30)
    return fill_bucket(tensors, plan.tensors, plan.bucket_bytes[0]), plan.tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_come_back_as_views_and_gaps_are_zero(dtype: str) -> None:
    tensors = [torch.randn(3, 5), torch.randn(5, 3).T, torch.zeros(0, 2), torch.randn(1)]
    bucket, entries = bucket_of(tensors, dtype)
    gaps = np.ones(bucket.size, bool)
    for (name, found), entry, tensor in zip(read_tensors([bucket], entries), entries, tensors, strict=True):
        assert name == entry.name
        assert torch.equal(found, tensor.to(DTYPES[dtype]))
        gaps[entry.offset_bytes : entry.offset_bytes + entry.num_bytes] = False
    assert not bucket[gaps].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("place", [0, 300_000, 599_999])
def test_what_is_not_finite_is_named(dtype: str, value: float, place: int) -> None:
    tensor = torch.randn(600_000)
    tensor[place] = value
    with pytest.raises(EngineError, match="t1"):
        bucket_of([torch.ones(2), tensor], dtype)


def test_what_overflows_on_the_way_is_found() -> None:
    with pytest.raises(EngineError, match="t0"):
        bucket_of([torch.tensor([70_000.0])], "float16")


def test_every_float16_is_judged_as_numpy_does() -> None:
    for bits in np.arange(1 << 16, dtype=np.uint16).reshape(-1, 1):
        assert (not_finite_float16(bits) is None) == bool(np.isfinite(bits.view(np.float16)[0]))


def test_buckets_of_others_are_read_without_a_copy_and_a_warning() -> None:
    bucket, entries = bucket_of([torch.ones(4)], "float32")
    bucket.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((_, tensor),) = read_tensors([bucket], entries)
    assert tensor.data_ptr() == bucket.ctypes.data
