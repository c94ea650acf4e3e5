"""What a step takes: sums, maxima, and what they depend on."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.planning.controller import DriverCosts
from gkd_dist.planning.learning import learning_time
from gkd_dist.planning.prediction import Groups, Split, predict
from gkd_dist.planning.sampling import sampling_time
from gkd_dist.planning.workload import Workload
from tests.planned_works import DEVICE, TEACHER, WORK, works

COUNTS = st.integers(1, 64)


def groups(work: Workload) -> Groups:
    return Groups(1, tuple(2 for _ in work.teachers))


@given(works(), COUNTS, COUNTS, COUNTS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_twice_the_rates_halve_the_step(work: Workload, samplers: int, teachers: int, ranks: int, shared: bool) -> None:
    split = Split(samplers, teachers, ranks)
    slow = predict(work, DEVICE, split, groups(work), shared=shared)
    driver = DriverCosts(work.driver.call_s / 2, work.driver.sequence_s / 2)
    twice = replace(work, driver=driver, probe_interval_s=work.probe_interval_s / 2)
    fast = predict(twice, DEVICE.faster(2), split, groups(work), shared=shared)

    assert fast.step_s == pytest.approx(slow.step_s / 2)
    assert fast.busy == pytest.approx({role: seconds / 2 for role, seconds in slow.busy.items()})


@given(works(), COUNTS, COUNTS, COUNTS)
@settings(max_examples=60, deadline=None)
def test_a_step_is_never_shorter_than_what_its_roles_do(
    work: Workload, samplers: int, teachers: int, ranks: int
) -> None:
    found = predict(work, DEVICE, Split(samplers, teachers, ranks), groups(work))

    assert all(found.step_s >= found.busy[role] * (1 - 1e-9) for role in ("samplers", "teachers", "learner"))


@given(works(), COUNTS, COUNTS, COUNTS)
@settings(max_examples=60, deadline=None)
def test_more_replicas_never_make_a_role_slower(work: Workload, samplers: int, teachers: int, ranks: int) -> None:
    few = predict(work, DEVICE, Split(samplers, teachers, ranks), groups(work))
    more = predict(work, DEVICE, Split(samplers + 1, teachers + 1, ranks), groups(work))

    assert more.busy["samplers"] <= few.busy["samplers"] * (1 + 1e-9)
    assert more.busy["teachers"] <= few.busy["teachers"] * (1 + 1e-9)


def test_a_synchronous_step_is_the_sum_of_its_parts() -> None:
    found = predict(WORK, DEVICE, Split(4, 2, 2), groups(WORK))
    parts = found.parts

    own = [parts.sampling.latency_s, parts.scoring_s, parts.wire_s, parts.learning.seconds]
    assert found.step_s == pytest.approx(sum(own) + parts.publishing.seconds + parts.controller_s)


def test_an_asynchronous_step_is_its_slowest_role_once_enough_batches_are_under_way() -> None:
    work = replace(WORK, max_staleness=50, max_concurrent=64)
    found = predict(work, DEVICE, Split(2, 8, 16), groups(work))

    assert found.bottleneck == "sampling"
    assert found.step_s == pytest.approx(found.busy["samplers"] + found.parts.publishing.load_s)


def test_a_tight_staleness_bound_is_named() -> None:
    work = replace(WORK, max_staleness=1)
    found = predict(work, DEVICE, Split(16, 16, 16), groups(work))
    assert found.bottleneck == "staleness"
    assert "max_staleness" in found.reason


def test_without_sequences_of_the_student_nobody_samples_and_nothing_is_published() -> None:
    found = predict(replace(WORK, student_fraction=0.0), DEVICE, Split(1, 1, 1), groups(WORK))

    assert found.busy["samplers"] == 0
    assert found.busy["weights"] == 0
    assert found.wire.weights == 0
    assert found.tokens["samplers"] == 0


def test_the_coin_samples_whole_batches_in_its_share_of_the_steps() -> None:
    coin = replace(WORK, per_batch=True, student_fraction=0.25)
    all_of_it = replace(WORK, student_fraction=1.0)
    split = Split(4, 2, 2)

    busy = predict(coin, DEVICE, split, groups(coin)).busy["samplers"]

    assert busy == pytest.approx(predict(all_of_it, DEVICE, split, groups(coin)).busy["samplers"] / 4)


def test_bytes_are_those_of_the_transport() -> None:
    topk = replace(TEACHER, transport="topk", top_k=32)
    tokens = WORK.trained_tokens
    for teacher, each in ((TEACHER, 2 * TEACHER.shape.hidden_size), (topk, 8 * 32)):
        found = predict(replace(WORK, teachers=(teacher,)), DEVICE, Split(1, 1, 1), Groups(1, (1,)))
        assert found.wire.targets == pytest.approx(each * tokens)


def test_the_head_costs_three_widths_of_the_student_and_one_of_the_teacher() -> None:
    flops_only = DEVICE.model_copy(update={"memory_bytes_per_s": 1e30})
    head = learning_time(WORK, flops_only, 1).head_s
    units = 3 * WORK.student.hidden_size + TEACHER.shape.hidden_size
    rate = DEVICE.flops["bfloat16"] * DEVICE.achieved.learner.compute

    assert head == pytest.approx(2 * WORK.trained_tokens * WORK.student.vocab_size * units / rate)


def test_a_frozen_body_saves_a_third_and_recomputing_costs_one() -> None:
    plain = replace(WORK, recomputes=False)
    bodies = [
        learning_time(each, DEVICE, 1).body_s
        for each in (plain, replace(plain, freezes_body=True), replace(plain, recomputes=True))
    ]
    assert bodies[1] == pytest.approx(bodies[0] * 2 / 3)
    assert bodies[2] == pytest.approx(bodies[0] * 4 / 3)


def test_decoding_a_few_sequences_reads_the_weights_once_per_position() -> None:
    work = replace(WORK, batch_size=1, student_fraction=1.0)
    found = sampling_time(work, DEVICE, 1, 1)
    rate = DEVICE.memory_bytes_per_s * DEVICE.achieved.sampler.memory

    assert found.bound == "overhead" or found.bound == "memory bandwidth"
    assert found.seconds >= work.lengths.longest * work.student.active_params * 2 / rate


def test_weights_that_take_longer_than_training_are_the_bottleneck() -> None:
    slow = DEVICE.model_copy(update={"host_bytes_per_s": 1e8})
    work = replace(WORK, max_staleness=50)
    assert predict(work, slow, Split(8, 8, 8), groups(work)).bottleneck == "publishing"


@pytest.mark.parametrize(
    ("per_batch", "max_staleness", "fraction", "publications"),
    [(True, 0, 0.25, 0.25), (False, 0, 0.25, 1.0), (True, 2, 0.25, 1.0), (True, 0, 0.0, 0.0), (False, 2, 0.0, 0.0)],
)
def test_weights_are_published_where_somebody_may_sample_with_them(
    per_batch: bool, max_staleness: int, fraction: float, publications: float
) -> None:
    work = replace(WORK, per_batch=per_batch, max_staleness=max_staleness, student_fraction=fraction)
    found = predict(work, DEVICE, Split(2, 2, 2), groups(work))
    assert found.wire.weights == publications * work.published_bytes
    assert found.busy["weights"] == publications * found.parts.publishing.seconds
