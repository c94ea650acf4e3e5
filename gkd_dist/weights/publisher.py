"""The learner's end of weight publication: parameters become one verified, versioned publication."""

from collections.abc import Sequence
from typing import Protocol

import torch

from gkd_dist.errors import EngineError
from gkd_dist.types import WeightManifest, WeightPublication
from gkd_dist.weights.manifest import digest, plan_buckets
from gkd_dist.weights.tensors import fill_buckets, read_tensors


class Publishable(Protocol):
    """A tensor, or what becomes one when its turn comes."""

    @property
    def shape(self) -> torch.Size: ...

    def detach(self) -> torch.Tensor: ...


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
        shapes = [(name, self._dtype, tuple(tensor.shape)) for name, tensor in parameters]
        plan = plan_buckets(shapes, self._bucket_bytes)
        buckets = fill_buckets(parameters, plan.tensors, plan.bucket_bytes)
        for name, tensor in read_tensors(buckets, plan.tensors):
            if not tensor.isfinite().all():
                raise EngineError(
                    f"parameter {name} is not finite after step {version}, so it is not published; go on from the last "
                    "checkpoint with a lower learner.learning_rate"
                )
        manifest = WeightManifest(
            version=version,
            run_epoch=self._run_epoch,
            tensors=plan.tensors,
            bucket_bytes=plan.bucket_bytes,
            digests=tuple(digest(bucket) for bucket in buckets),
        )
        return WeightPublication(manifest, tuple(buckets))
