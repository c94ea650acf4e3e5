"""What a step takes: sums, maxima, and what they depend on."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.planning.controller import DriverCosts, row_traffic, step_in_line
from gkd_dist.planning.learning import learning_time
from gkd_dist.planning.memory import learner_bytes
from gkd_dist.planning.prediction import Groups, Split, predict
from gkd_dist.planning.publishing import Receivers, publishing_time
from gkd_dist.planning.sampling import sampling_time
from gkd_dist.planning.scoring import scoring_time
from gkd_dist.planning.wire import wire_bytes
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


def test_a_frozen_head_costs_no_product_for_its_gradient() -> None:
    flops_only = DEVICE.model_copy(update={"memory_bytes_per_s": 1e30})
    frozen = replace(WORK, freezes_body=True)
    saved = learning_time(WORK, flops_only, 1).head_s - learning_time(frozen, flops_only, 1).head_s
    rate = DEVICE.flops["bfloat16"] * DEVICE.achieved.learner.compute

    assert saved == pytest.approx(2 * WORK.trained_tokens * WORK.student.head_params / rate)


def test_ranks_without_a_sequence_share_the_parameters_alone() -> None:
    """4 sequences: beyond 4 ranks only the optimizer's bytes are divided further; the others wait for these four."""
    work = replace(WORK, batch_size=4, micro_batch_tokens=100)
    four, sixteen = (learning_time(work, DEVICE, ranks) for ranks in (4, 16))
    near = DEVICE.model_copy(update={"num_per_node": 16})

    assert (sixteen.body_s, sixteen.head_s) == (four.body_s, four.head_s)
    assert learning_time(work, near, 16).exchange_s == four.exchange_s
    assert sixteen.optimizer_s == pytest.approx(four.optimizer_s / 4)


def test_frozen_parameters_are_gathered_and_their_gradients_not_reduced() -> None:
    adapters = replace(WORK, freezes_body=True, trained_params=1e6)
    whole, frozen = (learning_time(work, DEVICE, 4).exchange_s for work in (WORK, adapters))
    num_params = WORK.student.num_params

    assert frozen / whole == pytest.approx((8 * num_params + 4e6) / (12 * num_params))


def test_a_frozen_head_has_no_gradient_to_hold() -> None:
    spared = learner_bytes(WORK, 4) - learner_bytes(replace(WORK, freezes_body=True), 4)
    held = WORK.student.num_params * 4 / 4  # of the body and head, beside what is trained
    assert spared == pytest.approx(4 * WORK.student.head_params - held)


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


@pytest.mark.parametrize(
    ("samplers", "ranks", "beside", "others"),
    [
        (1, 1, 1, 0),
        (7, 1, 1, 0),
        (8, 1, 1, 1),
        (15, 1, 1, 1),
        (16, 1, 1, 2),
        (4, 8, 0, 1),
        (16, 12, 0, 2),
        (1, 7, 1, 0),
    ],
)
def test_samplers_beside_the_learner_read_nothing_over_the_network(
    samplers: int, ranks: int, beside: int, others: int
) -> None:
    receivers = Receivers.of(DEVICE, samplers, ranks)
    assert (receivers.beside, receivers.others) == (beside, others)
    link = DEVICE.network_bytes_per_s * DEVICE.achieved.publish.network
    assert publishing_time(WORK, DEVICE, receivers).spread_s == pytest.approx(others * WORK.published_bytes / link)


def test_every_node_with_samplers_gets_its_copy_of_the_weights() -> None:
    found = predict(WORK, DEVICE, Split(23, 1, 1), groups(WORK))
    assert found.wire.weights == 3 * WORK.published_bytes


def test_token_ids_go_to_every_teacher_and_to_the_learner() -> None:
    alone = wire_bytes(replace(WORK, teachers=()), 1).trajectories
    for shares in ((1.0,), (1.0, 1.0), (0.75, 0.25)):
        work = replace(WORK, teachers=tuple(replace(TEACHER, share=share) for share in shares))
        assert wire_bytes(work, 1).trajectories == pytest.approx(alone * (1 + sum(shares)))


def test_a_teacher_pays_its_overhead_for_every_batch_that_it_takes() -> None:
    teacher = DEVICE.achieved.teacher.model_copy(update={"overhead_s": 1e3})
    device = DEVICE.model_copy(update={"achieved": DEVICE.achieved.model_copy(update={"teacher": teacher})})
    overheads = [scoring_time(WORK, replace(TEACHER, max_concurrent=most), device, 2, 2) for most in (128, 64, 32)]
    assert overheads == pytest.approx([1e3, 2e3, 4e3], rel=1e-2)  # 128 sequences each


def test_requests_of_several_sequences_cost_the_controller_less() -> None:
    """2 B (call / k + sequence), the orders, and two calls of a learner of one rank."""
    work = replace(WORK, student_fraction=1.0, max_staleness=4, probe_interval_s=math.inf)
    call, sequence = work.driver.call_s, work.driver.sequence_s
    for number in (1, 4, 8):
        parts = predict(replace(work, num_generations=number), DEVICE, Split(5, 2, 1), groups(work)).parts
        expected = 2 * work.batch_size * (call / number + sequence) + (5 + 2) * call
        assert parts.controller_s == pytest.approx(expected)


def test_a_synchronous_step_asks_each_replica_once() -> None:
    traffic = predict(replace(WORK, student_fraction=1.0), DEVICE, Split(5, 2, 4), groups(WORK)).parts.traffic
    assert (traffic.sampled, traffic.scored, traffic.orders, traffic.learner) == (5, 2, 5, 12)
    assert traffic.written == traffic.read == WORK.batch_size


def test_fixed_pairs_are_scored_by_themselves_and_sampled_by_nobody() -> None:
    work = replace(WORK, student_fraction=0.75, max_staleness=4, num_generations=4)
    traffic = predict(work, DEVICE, Split(5, 2, 1), groups(work)).parts.traffic
    assert (traffic.sampled, traffic.scored) == (48, 48 + 64)
    assert (traffic.written, traffic.read) == (192, 256)


def test_the_controller_is_named_where_it_is_the_limit() -> None:
    quick = replace(WORK, student_fraction=1.0, max_staleness=50, driver=DriverCosts(0.1, 0.0))
    assert predict(quick, DEVICE, Split(8, 8, 8), groups(quick)).bottleneck == "controller"
    grouped = replace(quick, num_generations=64, driver=DriverCosts(1e-3, 0.0))
    assert predict(grouped, DEVICE, Split(8, 8, 8), groups(grouped)).bottleneck != "controller"


def test_only_replicas_that_answer_seldom_are_probed() -> None:
    costs = DriverCosts(1e-3)
    busy = row_traffic(1000, 0, num_generations=1, teachers=1, orders=0)
    idle = row_traffic(10, 0, num_generations=1, teachers=1, orders=0)
    found = [each.probes_s(costs, samplers=100, teachers=0, step_s=50.0, interval_s=5.0) for each in (idle, busy)]
    assert found[0] == pytest.approx(100 * 10 * 1e-3, rel=0.02)
    assert found[1] == pytest.approx(found[0] / math.e, rel=0.02)
    assert idle.probes_s(costs, samplers=100, teachers=0, step_s=50.0, interval_s=math.inf) == 0


@given(*(st.floats(0.01, 100.0) for _ in range(3)))
def test_calls_in_line_take_longer_by_what_else_the_controller_does(own: float, calls: float, other: float) -> None:
    step = step_in_line(own, calls, other)

    # step = own + calls / (1 - other / step), without the quotient, which loses its digits where step is near other
    assert step * step - step * (own + calls + other) + own * other == pytest.approx(0, abs=1e-9 * step * step)
    assert max(own, other) + calls < step < own + other + calls
    assert step_in_line(own, calls, 0.0) == pytest.approx(own + calls)
    assert step_in_line(own, 0.0, other) == pytest.approx(max(own, other))


@pytest.mark.parametrize(("call_s", "bottleneck"), [(1e-4, "learning"), (5e-4, "learning"), (1e-2, "controller")])
def test_a_step_that_waits_for_the_controller_is_named_after_who_has_more_to_do(call_s: float, bottleneck: str) -> None:
    """Of twice as fast a learner and twice as fast a controller the step is shorter with the one that is named."""
    work = replace(WORK, max_staleness=50, student_fraction=1.0, probe_interval_s=math.inf)
    work = replace(work, num_generations=4, driver=DriverCosts(call_s, 0.0))
    quick = DEVICE.model_copy(update={"host_bytes_per_s": 1e14, "network_bytes_per_s": 1e13})
    found = predict(work, quick, Split(64, 64, 32), groups(work))
    parts = found.parts
    own_s, calls_s = parts.wire_s + parts.learning.seconds + parts.publishing.gather_s, 96 * call_s
    other_s = parts.controller_s - calls_s

    assert found.step_s == pytest.approx(own_s + calls_s / (1 - other_s / found.step_s))
    assert found.bottleneck == bottleneck
    with_learner = step_in_line(own_s / 2, calls_s, other_s)
    with_controller = step_in_line(own_s, calls_s / 2, other_s / 2)
    assert (with_controller < with_learner) == (bottleneck == "controller")
