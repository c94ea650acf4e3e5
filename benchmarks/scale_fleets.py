"""The fleets of benchmarks/scale.py: ten to ten thousand actors, and what is done about each limit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gkd_dist.planning.controller import DRIVERS, row_traffic
from gkd_dist.simulation.scenario import Scenario, WeightRates

DRIVER = DRIVERS["ray"]
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
        "driver_call_s": DRIVER.call_s,
        "driver_sequence_s": DRIVER.sequence_s,
        "weights_bytes": scenario.weights.num_bytes,
        "link_bytes_per_s": scenario.weights.learner_bytes_per_s,
        "samplers_per_node": scenario.weights.samplers_per_node,
        "learner_step_s": scenario.learner.step_s,
        "max_staleness": scenario.max_staleness,
    }


def load(scenario: Scenario) -> dict[str, Any]:
    """Arithmetic, no simulation: what each controller's processor and the learner's link carry at full speed."""
    per_s, shards = scenario.ideal_per_s, scenario.num_shards
    step_s = scenario.batch_size / per_s
    samplers, teachers = scenario.num_samplers / shards, scenario.num_teachers / shards
    traffic = row_traffic(
        scenario.batch_size / shards, 0.0, num_generations=scenario.num_generations, teachers=1.0, orders=samplers
    )
    costs = scenario.driver
    requests, orders = traffic.requests_s(costs) / step_s, traffic.orders_s(costs) / step_s
    probed_s = traffic.probes_s(
        costs, samplers=samplers, teachers=teachers, step_s=step_s, interval_s=scenario.probe_interval_s
    )
    probes = probed_s / step_s
    weights = scenario.weights
    return {
        "controllers": shards,
        "sequences_per_s": round(per_s, 1),
        "step_s": round(step_s, 2),
        "driver_requests": round(requests, 3),
        "driver_orders_to_load_weights": round(orders, 3),
        "driver_probes": round(probes, 3),
        "driver": round(requests + orders + probes, 3),
        "weights_on_their_way_s": round(weights.spread_s(weights.num_nodes(scenario.num_samplers)), 2),
    }
