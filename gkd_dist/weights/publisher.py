"""The learner's end of weight publication: parameters become one verified, versioned publication."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch

from gkd_dist.errors import EngineError
from gkd_dist.types import ByteArray, WeightManifest, WeightPublication
from gkd_dist.weights.manifest import digest, plan_buckets
from gkd_dist.weights.tensors import Readable, fill_bucket


class Publishable(Readable, Protocol):
    """A tensor, or what becomes one when its turn comes."""

    @property
    def shape(self) -> torch.Size: ...


class WeightPublisher:
    """Turns named parameters into publications.

    Args:
        run_epoch: name of this learner start; receivers can tell a zombie by it.
        bucket_bytes: bucket size aimed at, bytes.
        dtype: what is published (`float32` or `bfloat16`).
    """

    def __init__(self, run_epoch: str, bucket_bytes: int, dtype: str) -> None:
        self._run_epoch = run_epoch
        self._bucket_bytes = bucket_bytes
        self._dtype = dtype

    def publish(self, parameters: Sequence[tuple[str, Publishable]], version: int) -> WeightPublication:
        """A publication of `parameters` as `version`, in buckets of bytes owned by the publication.

        Raises:
            EngineError: one of them is not finite: nobody could sample with it.
        """
        *buckets, manifest = self.stream(parameters, version)
        return WeightPublication(cast("WeightManifest", manifest), tuple(cast("list[ByteArray]", buckets)))

    def stream(
        self, parameters: Sequence[tuple[str, Publishable]], version: int
    ) -> Iterator[ByteArray | WeightManifest]:
        """As `publish`, each bucket as soon as it is filled, then the manifest. None is kept here."""
        shapes = [(name, self._dtype, tuple(tensor.shape)) for name, tensor in parameters]
        plan = plan_buckets(shapes, self._bucket_bytes)
        tensors = (tensor for _, tensor in parameters)
        digests = []
        for (_, group), num_bytes in zip(
            itertools.groupby(plan.tensors, key=lambda entry: entry.bucket), plan.bucket_bytes, strict=True
        ):
            entries = list(group)
            try:
                bucket = fill_bucket(itertools.islice(tensors, len(entries)), entries, num_bytes)
            except EngineError as error:
                for tensor in tensors:  # ranks that gather along wait for it
                    tensor.detach()
                raise EngineError(
                    f"{error} after step {version}, so it is not published; go on from the last checkpoint with a "
                    "lower learner.learning_rate"
                ) from None
            digests.append(digest(bucket))
            yield bucket
            del bucket  # before there is another one
        yield WeightManifest(
            version=version,
            run_epoch=self._run_epoch,
            tensors=plan.tensors,
            bucket_bytes=plan.bucket_bytes,
            digests=tuple(digests),
        )
