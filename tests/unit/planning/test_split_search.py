"""The best split of some devices."""

from dataclasses import astuple, replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gkd_dist.errors import ConfigError
from gkd_dist.planning.controller import DriverCosts
from gkd_dist.planning.prediction import Prediction, Split, predict
from gkd_dist.planning.search import (
    NO_WORSE,
    best_split,
    checked_split,
    counts,
    fewest_ranks,
    groups_of,
    shared_device,
)
from gkd_dist.planning.shapes import shape_of_size
from gkd_dist.planning.steps import Steps
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
    assert best_split(work, DEVICE, number + 1).step_s <= few.step_s * (1 + 1e-9)


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


LARGE = (
    replace(WORK, batch_size=32768, student_fraction=1.0, max_staleness=4, num_generations=4, max_concurrent=128),
    replace(WORK, batch_size=4096, student_fraction=1.0),
    replace(WORK, batch_size=1000, student_fraction=0.5, max_staleness=1, teachers=(TEACHER, TEACHER)),
)
"""Works on which the controller is busy: every replica that is asked or probed costs it something."""


@pytest.mark.parametrize("work", LARGE)
def test_the_step_never_rises_with_the_devices_that_are_given(work: Workload) -> None:
    numbers = (100, 1000, 1001, 3000, 10_000)
    steps = [best_split(work, DEVICE, number).step_s for number in numbers]
    assert all(more <= few * (1 + 1e-9) for few, more in pairwise(steps))


@pytest.mark.parametrize("work", LARGE)
@pytest.mark.parametrize("number", [100, 2000])
def test_no_split_near_the_best_one_is_better(work: Workload, number: int) -> None:
    best = best_split(work, DEVICE, number)
    scales = (0.25, 0.5, 0.8, 0.95, 0.98, 1, 1.02, 1.05, 1.25, 2, 4)
    near = [
        Split(*(max(1, round(count * scale)) for count, scale in zip(astuple(best.split), each, strict=True)))
        for each in product(scales, repeat=3)
    ]
    least = fewest_ranks(work, DEVICE, number)
    assert least is not None
    fitting = [each for each in near if best.groups.total(each) <= number and each.ranks >= least]
    assert len(fitting) > 10
    assert min(predict(work, DEVICE, each, best.groups).step_s for each in fitting) * 1.01 >= best.step_s


@given(works(), st.integers(1, 200), st.integers(1, 200), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_the_search_goes_by_what_is_shown(work: Workload, samplers: int, teachers: int, ranks: int) -> None:
    groups, number = groups_of(work, DEVICE), teachers if work.teachers else 0
    steps = Steps(work, DEVICE, groups, [1, samplers], [ranks, 3])
    shown = predict(work, DEVICE, Split(samplers, number, ranks), groups)

    assert steps.with_teachers(number, np.array([2]))[0] == pytest.approx(shown.step_s)
    assert steps.devices(number)[2] == shown.devices
    assert steps.floor_s[2] <= shown.step_s * (1 + 1e-9)


def test_the_bottleneck_is_that_of_the_split_that_is_shown() -> None:
    slow = replace(WORK, batch_size=4096, student_fraction=1.0, max_staleness=4, driver=DriverCosts(2e-3, 0.0))
    found = best_split(slow, DEVICE, 512)
    shown = predict(slow, DEVICE, found.split, found.groups)
    assert found == shown
    assert found.busy["controller"] == found.parts.controller_s == pytest.approx(found.step_s, rel=0.02)


def test_a_model_too_large_for_one_device_gets_several() -> None:
    work = replace(WORK, teachers=(replace(TEACHER, shape=shape_of_size("70B")),))
    assert groups_of(work, DEVICE).teachers == (2,)


def test_one_device_is_shared_where_more_are_no_faster_or_too_few() -> None:
    """Without staleness one part waits for the other, wherever they run; with it they run at once."""
    shared = shared_device(WORK, DEVICE)
    assert best_split(WORK, DEVICE, 2) == shared
    tiny = replace(WORK, batch_size=1, max_staleness=0, teachers=())
    assert best_split(tiny, DEVICE, 2).shared
    assert not best_split(replace(WORK, batch_size=4096), DEVICE, 64).shared


def test_too_few_devices_are_refused_with_the_number_that_will_do() -> None:
    narrow = DEVICE.model_copy(update={"memory_bytes": 50e9})
    with pytest.raises(ConfigError, match=r"give 3 or more$"):
        best_split(WORK, narrow, 2)
    large = replace(WORK, student=shape_of_size("32B"), trained_params=32e9)
    with pytest.raises(ConfigError, match=r"the learner (\d+); give \d+ or more$"):
        best_split(large, DEVICE, 2)


def test_a_learner_that_fits_nowhere_is_told_to_take_less() -> None:
    with pytest.raises(ConfigError, match=r"lower learner\.max_micro_batch_tokens"):
        best_split(replace(WORK, micro_batch_tokens=10**7), DEVICE, 100)


def test_a_configured_group_that_is_too_small_and_an_engine_of_one_device_are_told_together() -> None:
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

    with pytest.raises(ConfigError, match="give more devices"):
        shared_device(replace(WORK, teachers=(replace(TEACHER, shape=shape_of_size("70B")),)), DEVICE)


def test_many_counts_are_thinned_and_more_devices_only_add_some() -> None:
    assert counts(3, 20) == list(range(3, 21))
    many = counts(1, 100_000)
    assert len(many) < 400
    assert many == sorted(set(many))
    assert max(more / few for few, more in pairwise(many[63:])) <= 1.031
    assert counts(1, 5000) == [each for each in many if each <= 5000]
