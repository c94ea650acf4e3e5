"""Named tensors to buckets of bytes, and back.

Bucket layout is that of `manifest.plan_buckets`; bytes are the tensor's own, little endian, row major.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from gkd_dist.array_faults import not_finite, not_finite_bfloat16, not_finite_float16, stretches
from gkd_dist.errors import EngineError
from gkd_dist.types import ByteArray, TensorEntry

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FAULTS = {
    "float32": (np.float32, not_finite),
    "bfloat16": (np.uint16, not_finite_bfloat16),
    "float16": (np.uint16, not_finite_float16),
}
"""By dtype: how numpy sees it, and what is wrong with it. torch's own `isfinite` makes arrays as long as its input, and
takes several times as long as the copy."""


class Readable(Protocol):
    """A tensor, or what becomes one when it is read."""

    def detach(self) -> torch.Tensor: ...


def fill_bucket(tensors: Iterable[Readable], entries: Sequence[TensorEntry], num_bytes: int) -> ByteArray:
    """A bucket of `num_bytes` with one tensor per entry, converted to the entry's dtype on the way: one copy.

    Args:
        tensors: in the order of `entries`.

    Raises:
        EngineError: a tensor that is not finite in its entry's dtype; names it.
    """
    bucket, end = np.empty(num_bytes, dtype=np.uint8), 0
    for entry, tensor in zip(entries, tensors, strict=True):
        bucket[end : entry.offset_bytes] = 0
        end = entry.offset_bytes + entry.num_bytes
        _view(bucket, entry).copy_(tensor.detach())
        dtype, fault = _FAULTS[entry.dtype]
        if any(fault(stretch) for stretch in stretches(_bytes_of(bucket, entry).view(dtype))):
            raise EngineError(f"parameter {entry.name} is not finite")
    return bucket


def read_tensors(buckets: Sequence[ByteArray], entries: Sequence[TensorEntry]) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) views into the buckets, in manifest order; to be read alone, for buckets may be others' too."""
    for entry in entries:
        yield entry.name, _view(buckets[entry.bucket], entry)


def _view(bucket: ByteArray, entry: TensorEntry) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # what Ray gives is read-only
        section = torch.from_numpy(_bytes_of(bucket, entry))
    return section.view(DTYPES[entry.dtype]).view(entry.shape)


def _bytes_of(bucket: ByteArray, entry: TensorEntry) -> ByteArray:
    return bucket[entry.offset_bytes : entry.offset_bytes + entry.num_bytes]
