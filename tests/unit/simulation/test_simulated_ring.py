"""The real ring over simulated engines: what it promises holds in virtual time, and its speed is that of theory."""

import asyncio
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.errors import GkdError
from gkd_dist.planning.controller import DriverCosts
from gkd_dist.simulation.outcome import Outcome
from gkd_dist.simulation.run import simulate, turn
from gkd_dist.simulation.scenario import (
    LearnerRates,
    Lifetimes,
    Scaling,
    Scenario,
    WeightRates,
)

EXACT = Scenario.of_stages(2.0, 0.8, 0.5, max_steps=14, max_staleness=2)
"""Per step of 8: 2 s of sampling, 0.8 s of scoring, 0.5 s of learning; nothing else costs anything."""


def test_asynchronous_steps_take_as_long_as_the_slowest_stage() -> None:
    outcome = simulate(EXACT)
    assert outcome.of_ideal == pytest.approx(1.0, rel=0.02)
    assert outcome.bottleneck == "samplers"


def test_synchronous_steps_take_as_long_as_all_stages_together() -> None:
    outcome = simulate(replace(EXACT, max_staleness=0, whole_steps=True, max_steps=8))
    assert outcome.window.seconds / 5 == pytest.approx(2.0 + 0.8 + 0.5, rel=0.01)
    assert set(outcome.staleness) == {0}


def test_a_learner_that_is_slowest_sets_the_pace() -> None:
    outcome = simulate(replace(EXACT, learner=LearnerRates(step_s=3.0, gather_s=0.0)))
    assert outcome.sequences_per_s == pytest.approx(8 / 3, rel=0.01)
    assert outcome.bottleneck == "learner"


def test_a_controller_that_is_slowest_sets_the_pace() -> None:
    """A step is 20 calls: two a sequence, one to each sampler for its weights, two to the learner."""
    outcome = simulate(replace(EXACT, driver=DriverCosts(call_s=0.2), probe_interval_s=1000.0))
    assert outcome.sequences_per_s == pytest.approx(8 / (20 * 0.2), rel=0.01)
    assert outcome.bottleneck == "driver"


def test_weights_that_all_nodes_read_from_one_link_hold_up_the_ring() -> None:
    weights = WeightRates(num_bytes=4e9, learner_bytes_per_s=1e9, node_bytes_per_s=1e9, samplers_per_node=1)
    slow = replace(EXACT, weights=weights)
    outcome = simulate(replace(slow, max_staleness=0, whole_steps=True, max_steps=8))
    assert outcome.window.seconds / 5 == pytest.approx(3.3 + 8.0, rel=0.01)
    tree = simulate(replace(slow, max_staleness=1, num_samplers=32, weights=replace(slow.weights, fan_out=2)))
    assert tree.sequences_per_s > 3 * simulate(replace(slow, max_staleness=1, num_samplers=32)).sequences_per_s


@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize(("samplers_per_node", "num_nodes"), [(1, 8), (2, 4), (8, 1)])
def test_samplers_of_one_node_read_new_weights_once(samplers_per_node: int, num_nodes: int, num_shards: int) -> None:
    """Whichever controller they belong to: 3 s a node, before whole steps of 0.5 s of sampling, 0.2 of scoring and 0.5
    of learning."""
    weights = WeightRates(3e9, 1e9, 1e9, samplers_per_node=samplers_per_node)
    scenario = replace(EXACT, num_samplers=8, num_teachers=8, weights=weights, max_staleness=0, whole_steps=True)
    outcome = simulate(replace(scenario, num_shards=num_shards, max_steps=8))
    assert outcome.window.seconds / 5 == pytest.approx(1.2 + 3.0 * num_nodes, rel=0.01)


def test_shards_make_each_step_together() -> None:
    outcome = simulate(replace(EXACT, num_shards=2))
    assert outcome.of_ideal == pytest.approx(1.0, rel=0.02)
    assert outcome.num_trained == 8 * 14


@given(
    seed=st.integers(0, 10_000),
    mtbf_s=st.floats(20.0, 200.0),
    max_staleness=st.integers(1, 3),
    num_generations=st.sampled_from([1, 2]),
)
@settings(max_examples=8, deadline=None)
def test_staleness_and_ids_hold_whatever_fails(
    seed: int, mtbf_s: float, max_staleness: int, num_generations: int
) -> None:
    scenario = replace(
        EXACT,
        seed=seed,
        max_steps=10,
        max_staleness=max_staleness,
        num_generations=num_generations,
        sampler=replace(EXACT.sampler, max_running=2, sigma=0.8, max_tokens=200, load_s=0.1),
        lifetimes=Lifetimes(mtbf_s=mtbf_s, startup_s=3.0),
        max_restarts=1000,
    )
    outcome = simulate(scenario)
    assert max(outcome.staleness) <= max_staleness
    assert (outcome.num_trained, outcome.num_trained_twice) == (8 * 10, 0)


def facts(outcome: Outcome) -> tuple[object, ...]:
    return outcome.window, outcome.staleness, outcome.num_deaths, outcome.num_evicted, outcome.num_restarts


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    scenario = replace(
        EXACT,
        sampler=replace(EXACT.sampler, sigma=0.8, max_tokens=200),
        lifetimes=Lifetimes(mtbf_s=60.0, startup_s=3.0),
        max_restarts=1000,
    )
    first = facts(simulate(scenario))
    assert first == facts(simulate(scenario))
    assert first != facts(simulate(replace(scenario, seed=1)))


def test_actors_that_die_are_seen_and_cost_throughput() -> None:
    whole = simulate(replace(EXACT, max_steps=20))
    failing = simulate(replace(EXACT, max_steps=20, lifetimes=Lifetimes(mtbf_s=40.0, startup_s=5.0), max_restarts=1000))
    assert failing.num_deaths >= 2 and failing.num_restarts >= 2
    assert failing.sequences_per_s < whole.sequences_per_s


def test_a_run_whose_replicas_are_used_up_ends_with_what_the_ring_says() -> None:
    scenario = replace(EXACT, lifetimes=Lifetimes(mtbf_s=1.0, startup_s=1.0), max_restarts=1)
    with pytest.raises(GkdError, match="max_restarts"):
        simulate(scenario)


def test_the_policy_of_the_ring_finds_the_number_of_samplers() -> None:
    """8 samplers of 2 per second carry what the learner takes: the housekeeping of a run moves the number."""
    scenario = replace(
        EXACT,
        num_samplers=8,
        num_teachers=8,
        batch_size=16,
        max_steps=60,
        learner=LearnerRates(step_s=1.4, gather_s=0.0),
        lifetimes=Lifetimes(startup_s=2.0),
        scaling=Scaling(first=1, maximum=40),
        has_housekeeping=True,
    )
    outcome = simulate(scenario, warm_up=44)
    assert [number for _, number in outcome.targets][:2] == [2, 4]
    assert outcome.targets[-1][1] in range(5, 10)
    assert outcome.of_ideal > 0.85


@pytest.mark.parametrize(("max_ongoing_requests", "is_healthy"), [(None, True), (math.inf, False)])
def test_the_queue_of_the_first_sampler_runs_into_no_deadline(
    max_ongoing_requests: float | None, is_healthy: bool
) -> None:
    """48 sequences of half a second each for one sampler, and others join later: given out at once, the last ones miss
    their deadline of 8 s there, and it is ended as if it hung."""
    scenario = replace(
        EXACT,
        num_samplers=8,
        batch_size=16,
        max_steps=20,
        lifetimes=Lifetimes(startup_s=2.0),
        scaling=Scaling(first=1, maximum=8),
        has_housekeeping=True,
        request_timeout_s=8.0,
        max_restarts=1000,
        max_ongoing_requests=max_ongoing_requests,
    )
    assert (simulate(scenario).num_restarts == 0) is is_healthy


def test_real_time_and_virtual_time_agree() -> None:
    """The same small ring in 2 real seconds; what is asked of a busy machine is little."""
    sampler, learner = replace(EXACT.sampler, median_tokens=5), LearnerRates(step_s=0.1, gather_s=0.0)
    scenario = replace(EXACT, max_steps=6, max_staleness=1, sampler=sampler, learner=learner)
    virtual = simulate(scenario, warm_up=1)
    real = asyncio.run(turn(scenario, warm_up=1))
    assert real.num_trained == virtual.num_trained
    assert real.window.seconds >= 0.9 * virtual.window.seconds
    assert math.isfinite(real.sequences_per_s)


@pytest.mark.parametrize("change", [{"num_shards": 3}, {"batch_size": 7, "num_shards": 2}])
def test_what_cannot_be_shared_out_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="multiples"):
        replace(EXACT, **change)


def test_a_window_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="warm_up"):
        simulate(replace(EXACT, max_steps=5))
