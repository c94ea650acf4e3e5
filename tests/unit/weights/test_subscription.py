"""A sampler takes publications of one learner, in order, made for its model."""

import pytest

from gkd_dist.errors import WeightsError
from gkd_dist.types import TensorEntry, WeightManifest
from gkd_dist.weights.subscription import Subscription

SHAPES = {"embed": (10, 7), "norm": (7,)}


def manifest(version: int, run_epoch: str = "a", **shapes: tuple[int, ...]) -> WeightManifest:
    tensors = tuple(TensorEntry(name, "float32", shape, 0, 0, 0) for name, shape in (shapes or SHAPES).items())
    return WeightManifest(version, run_epoch, tensors, (), ())


def test_the_first_learner_is_followed_and_no_other() -> None:
    subscription = Subscription(SHAPES, 0)
    subscription.check(manifest(1, "refused for another reason later on"))
    subscription.check(manifest(1))
    subscription.accept(manifest(1))
    subscription.check(manifest(2))
    with pytest.raises(WeightsError, match="learner start b, this sampler follows a"):
        subscription.check(manifest(2, "b"))


def test_versions_do_not_go_back() -> None:
    subscription = Subscription(SHAPES, 4)
    subscription.check(manifest(4))
    with pytest.raises(WeightsError, match="version 3 is older than version 4"):
        subscription.check(manifest(3))
    subscription.accept(manifest(6))
    assert subscription.version == 6
    with pytest.raises(WeightsError, match="version 5 is older"):
        subscription.check(manifest(5))


def test_differences_are_named() -> None:
    with pytest.raises(WeightsError, match=r"missing \['norm'\], unknown \['bias'\], other shapes .*embed \(1, 7\)"):
        Subscription(SHAPES, 0).check(manifest(1, embed=(1, 7), bias=(7,)))
