"""The best split of some devices."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gkd_dist.errors import ConfigError
from gkd_dist.planning.controller import DriverCosts
from gkd_dist.planning.prediction import Prediction, Split, predict
from gkd_dist.planning.search import (
    MOST_COUNTS,
    NO_WORSE,
    best_split,
    checked_split,
    counts,
    fewest_ranks,
    groups_of,
    shared_device,
)
from gkd_dist.planning.workload import Workload
from tests.planned_works import DEVICE, TEACHER, WORK, works

SAME = NO_WORSE + 1e-6


def found_or_none(work: Workload, number: int) -> Prediction | None:
    try:
        return best_split(work, DEVICE, number)
    except ConfigError:
        return None


@given(works(), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_one_more_device_never_makes_the_best_step_longer(work: Workload, number: int) -> None:
    few = found_or_none(work, number)
    assume(few is not None)
    assert few is not None
    assert best_split(work, DEVICE, number + 1).step_s <= few.step_s * SAME


@given(works(), st.integers(3, 16))
@settings(max_examples=25, deadline=None)
def test_no_split_of_the_same_devices_is_better(work: Workload, number: int) -> None:
    best = found_or_none(work, number)
    assume(best is not None)
    assert best is not None
    groups, least = groups_of(work, DEVICE), fewest_ranks(work, DEVICE, number)
    assert least is not None
    teachers = range(1, number) if work.teachers else range(1)
    splits = [Split(s, t, r) for s in range(1, number) for t in teachers for r in range(1, number)]
    fitting = [each for each in splits if groups.total(each) <= number and each.ranks >= least]

    assert groups.total(best.split) <= number
    assert all(predict(work, DEVICE, each, groups).step_s * SAME >= best.step_s for each in fitting)


@given(works(), st.integers(3, 64))
@settings(max_examples=25, deadline=None)
def test_a_replica_less_makes_the_step_longer(work: Workload, number: int) -> None:
    best = found_or_none(work, number)
    assume(best is not None)
    assert best is not None
    split = best.split
    if split.samplers > 1:
        fewer = predict(work, DEVICE, replace(split, samplers=split.samplers - 1), best.groups)
        assert fewer.step_s > best.step_s


def test_what_is_not_needed_is_left_out() -> None:
    small = replace(WORK, batch_size=4)
    split = best_split(small, DEVICE, 200).split
    assert max(split.samplers, split.teachers) <= 4


def test_surplus_devices_make_no_step_longer() -> None:
    """Thousands of teachers with nothing to do would be probed."""
    work = replace(WORK, batch_size=4096, student_fraction=1.0, max_staleness=4, num_generations=4)
    few, many = best_split(work, DEVICE, 200), best_split(work, DEVICE, 4096)
    assert many.step_s <= few.step_s * SAME


def test_the_bottleneck_is_what_no_device_helps() -> None:
    slow = replace(WORK, batch_size=4096, student_fraction=1.0, max_staleness=4, driver=DriverCosts(2e-3, 0.0))
    found = best_split(slow, DEVICE, 512)
    assert (found.bottleneck, found.split.samplers < 200) == ("controller", True)


def test_a_model_too_large_for_one_device_gets_several() -> None:
    from gkd_dist.planning.shapes import shape_of_size

    work = replace(WORK, teachers=(replace(TEACHER, shape=shape_of_size("70B")),))
    assert groups_of(work, DEVICE).teachers == (2,)


def test_too_few_devices_are_refused_with_the_number_that_will_do() -> None:
    with pytest.raises(ConfigError, match="give 3 or more, or 1"):
        best_split(WORK, DEVICE, 2)


def test_a_configured_group_that_is_too_small_and_an_engine_of_one_device_are_told_together() -> None:
    from gkd_dist.planning.shapes import shape_of_size

    large = replace(TEACHER, shape=shape_of_size("70B"))
    work = replace(WORK, teachers=(replace(large, tensor_parallel=1), replace(large, engine="hf")))
    with pytest.raises(ConfigError) as caught:
        groups_of(work, DEVICE)
    assert len(caught.value.problems) == 2
    assert "tensor_parallel_size=1" in caught.value.problems[0]
    assert "use engine=vllm" in caught.value.problems[1]


@pytest.mark.parametrize(
    ("split", "needle"),
    [(Split(0, 1, 1), "sampler"), (Split(1, 0, 1), "teacher"), (Split(1, 1, 0), "rank")],
)
def test_a_split_without_a_role_is_refused(split: Split, needle: str) -> None:
    with pytest.raises(ConfigError, match=needle):
        checked_split(WORK, DEVICE, split)


def test_one_device_takes_turns_where_all_fit_and_is_refused_where_they_do_not() -> None:
    found = shared_device(replace(WORK, micro_batch_tokens=1024), DEVICE)
    assert found.shared
    assert found.step_s >= sum(found.busy.values())

    from gkd_dist.planning.shapes import shape_of_size

    with pytest.raises(ConfigError, match="give more devices"):
        shared_device(replace(WORK, teachers=(replace(TEACHER, shape=shape_of_size("70B")),)), DEVICE)


def test_many_counts_are_thinned_and_keep_their_ends() -> None:
    assert counts(3, 20) == list(range(3, 21))
    many = counts(1, 100_000)
    assert len(many) <= MOST_COUNTS
    assert (many[0], many[-1]) == (1, 100_000)
    assert many == sorted(set(many))
