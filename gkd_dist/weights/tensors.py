"""Named tensors to buckets of bytes, and back.

Bucket layout is that of `manifest.plan_buckets`; bytes are the tensor's own, little endian, row major.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from gkd_dist.types import ByteArray, TensorEntry

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fill_buckets(
    tensors: Iterable[tuple[str, torch.Tensor]], entries: Sequence[TensorEntry], bucket_bytes: Sequence[int]
) -> list[ByteArray]:
    """Copy every tensor to its place, converting to the entry's dtype on the way: one pass, one copy."""
    buckets = [np.zeros(num_bytes, dtype=np.uint8) for num_bytes in bucket_bytes]
    by_name = {entry.name: entry for entry in entries}
    for name, tensor in tensors:
        _view(buckets[by_name[name].bucket], by_name[name]).copy_(tensor.detach())
    return buckets


def read_tensors(buckets: Sequence[ByteArray], entries: Sequence[TensorEntry]) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) views into the buckets, in manifest order."""
    for entry in entries:
        yield entry.name, _view(buckets[entry.bucket], entry)


def _view(bucket: ByteArray, entry: TensorEntry) -> torch.Tensor:
    section = bucket[entry.offset_bytes : entry.offset_bytes + entry.num_bytes]
    return torch.from_numpy(section).view(DTYPES[entry.dtype]).view(entry.shape)
