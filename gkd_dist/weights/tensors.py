"""Named tensors to buckets of bytes, and back.

Bucket layout is that of `manifest.plan_buckets`; bytes are the tensor's own, little endian, row major.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from gkd_dist.errors import EngineError
from gkd_dist.types import ByteArray, TensorEntry

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Readable(Protocol):
    """A tensor, or what becomes one when it is read."""

    def detach(self) -> torch.Tensor: ...


def fill_bucket(tensors: Iterable[Readable], entries: Sequence[TensorEntry], num_bytes: int) -> ByteArray:
    """A bucket of `num_bytes` with one tensor per entry, converted to the entry's dtype on the way: one copy.

    Args:
        tensors: in the order of `entries`.
        entries: in the order of their offsets.

    Raises:
        EngineError: a tensor that is not finite in its entry's dtype; names it.
    """
    bucket, end = np.empty(num_bytes, dtype=np.uint8), 0
    whole = torch.from_numpy(bucket)
    for entry, tensor in zip(entries, tensors, strict=True):
        bucket[end : entry.offset_bytes] = 0  # what lies between tensors is in the digest too
        section = _view(whole, entry)
        section.copy_(tensor.detach())
        if not is_finite(section):
            raise EngineError(f"parameter {entry.name} is not finite")
        end = entry.offset_bytes + entry.num_bytes
    bucket[end:] = 0
    return bucket


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all of it is. A finite sum has finite terms, and takes a thirtieth of the time of looking at each
    (bfloat16 on CPU); one that is not may have overflowed."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def read_tensors(buckets: Sequence[ByteArray], entries: Sequence[TensorEntry]) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) views into the buckets, in manifest order; to be read alone, for buckets may be others' too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # what Ray gives is read-only
        wholes = [torch.from_numpy(bucket) for bucket in buckets]
    for entry in entries:
        yield entry.name, _view(wholes[entry.bucket], entry)


def _view(bucket: torch.Tensor, entry: TensorEntry) -> torch.Tensor:
    section = bucket[entry.offset_bytes : entry.offset_bytes + entry.num_bytes]
    return section.view(DTYPES[entry.dtype]).view(entry.shape)
