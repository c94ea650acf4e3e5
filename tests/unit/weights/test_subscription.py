"""A sampler takes publications of the latest learner start, in order, made for its model."""

import pytest

from gkd_dist.errors import WeightsError
from gkd_dist.types import TensorEntry, WeightManifest
from gkd_dist.weights.subscription import Subscription

SHAPES = {"embed": (10, 7), "norm": (7,)}


def manifest(version: int, run_epoch: str = "a", **shapes: tuple[int, ...]) -> WeightManifest:
    tensors = tuple(TensorEntry(name, "float32", shape, 0, 0, 0) for name, shape in (shapes or SHAPES).items())
    return WeightManifest(version, run_epoch, tensors, (), ())


@pytest.mark.fault(36)
def test_a_former_start_of_the_learner_is_refused_whatever_its_version() -> None:
    subscription = Subscription(SHAPES, 0)
    subscription.check(manifest(1, "000009-refused-for-another-reason-later-on"))
    subscription.accept(manifest(4, "000002-a"))
    subscription.check(manifest(5, "000002-a"))
    for version in (1, 4, 9):
        with pytest.raises(WeightsError, match="learner start 000001-f, this sampler follows the later 000002-a"):
            subscription.check(manifest(version, "000001-f"))


def test_a_later_start_of_the_learner_may_begin_at_a_lower_version() -> None:
    subscription = Subscription(SHAPES, 0)
    subscription.accept(manifest(7, "000009-0001-f"))
    later = manifest(4, "000010-0001-a")
    subscription.check(later)
    subscription.accept(later)
    assert subscription.version == 4
    with pytest.raises(WeightsError, match="version 3 is older than version 4"):
        subscription.check(manifest(3, "000010-0001-a"))
    with pytest.raises(WeightsError, match="learner start 000009"):
        subscription.check(manifest(8, "000009-0001-f"))


@pytest.mark.fault(10)
def test_weights_of_the_same_version_from_another_start_have_another_name() -> None:
    subscription = Subscription(SHAPES, 0)
    names = [subscription.weights]
    for offered in (manifest(0, "000001-a"), manifest(1, "000001-a"), manifest(1, "000002-b")):
        subscription.accept(offered)
        names.append(subscription.weights)
    assert len(set(names)) == 4


@pytest.mark.fault(37)
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
