"""The fleets of benchmarks/scale.py: ten to ten thousand actors, and what is done about each limit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gkd_dist.simulation.driver import DriverCosts
from gkd_dist.simulation.scenario import Scenario, WeightRates
from gkd_dist.simulation.weights import depth_of

CALL_S, SEQUENCE_S = 0.99e-3, 0.10e-3
"""Of the driver's processor, per call and per sequence of a call: 2.2 ms for the two calls of a sequence that goes by
itself (elastic.json); of eight that go together each costs a fifth of that (the ratio of `calls`)."""
DRIVER = DriverCosts(CALL_S, SEQUENCE_S)
TREE = WeightRates(fan_out=2)
GROUPED = 4
"""Sequences per request where requests are grouped."""
SIZES = (10, 100, 1000, 10_000)


def fleet(num_actors: int, **changes: Any) -> Scenario:
    """Four samplers for each teacher, four sequences of a batch for each sampler."""
    samplers = num_actors * 8 // 10
    scenario = Scenario(samplers, num_actors - samplers, batch_size=4 * samplers, max_steps=10, driver=DRIVER)
    return replace(scenario, **changes)


def as_it_is(num_actors: int) -> Scenario:
    return fleet(num_actors)


def with_tree(num_actors: int) -> Scenario:
    return fleet(num_actors, weights=TREE)


def grouped(num_actors: int) -> Scenario:
    return fleet(num_actors, weights=TREE, num_generations=GROUPED)


def sharded(num_actors: int) -> Scenario:
    return fleet(num_actors, weights=TREE, num_generations=GROUPED, num_shards=max(1, num_actors // 500))


VARIANTS: dict[str, Callable[[int], Scenario]] = {
    "as it is": as_it_is,
    "tree": with_tree,
    "tree, 4 per request": grouped,
    "tree, 4 per request, a controller per 500 actors": sharded,
}


def rates() -> dict[str, Any]:
    """What all fleets have in common."""
    scenario = fleet(10)
    return {
        "sampler_sequences_per_s": round(scenario.sampler.sequences_per_s(scenario.prompt_tokens), 3),
        "mean_answer_tokens": round(scenario.sampler.mean_tokens, 1),
        "driver_call_s": CALL_S,
        "driver_sequence_s": SEQUENCE_S,
        "weights_bytes": scenario.weights.num_bytes,
        "link_bytes_per_s": scenario.weights.learner_bytes_per_s,
        "learner_step_s": scenario.learner.step_s,
        "max_staleness": scenario.max_staleness,
    }


def load(scenario: Scenario) -> dict[str, Any]:
    """Arithmetic, no simulation: what each controller's processor and the learner's link carry at full speed."""
    per_s, shards, weights = scenario.ideal_per_s, scenario.num_shards, scenario.weights
    step_s = scenario.batch_size / per_s
    requests = 2 * per_s / shards * (CALL_S / scenario.num_generations + SEQUENCE_S)
    orders = scenario.num_samplers / shards * CALL_S / step_s
    probes = (scenario.num_samplers + scenario.num_teachers) / shards * CALL_S / scenario.probe_interval_s
    if weights.fan_out:
        depth = depth_of(scenario.num_samplers - 1, weights.fan_out)
        hop_s = weights.fan_out * weights.num_bytes / weights.replica_bytes_per_s
        spread_s = hop_s * (1 + (depth - 1) / weights.num_pieces)
    else:
        spread_s = scenario.num_samplers * weights.num_bytes / weights.learner_bytes_per_s
    return {
        "controllers": shards,
        "sequences_per_s": round(per_s, 1),
        "step_s": round(step_s, 2),
        "driver_requests": round(requests, 3),
        "driver_orders_to_load_weights": round(orders, 3),
        "driver_probes": round(probes, 3),
        "driver": round(requests + orders + probes, 3),
        "weights_on_their_way_s": round(spread_s, 2),
    }
