"""What breaks first on the way to thousands of actors: the real controller over simulated engines, in virtual time.

    .venv/bin/python benchmarks/scale.py [PART ...]

Real: controller, intake, replay, ledger, supervised pools, status file, metrics, scaling policy (gkd_dist/simulation).
Simulated: engines, links, failures, and what a call costs the controller's processor (`CALL_S`, `SEQUENCE_S`, from
`calls`). Writes benchmarks/scale.json, part by part, and docs/images/scale-*.svg. Each case has a process of its own.

    calls       Ray, engines that cost nothing: what 1 and 8 sequences per request cost the driver
    validation  one small ring in real time and in virtual time, beside the theory of overlap
    weak        10 to 10,000 actors, batch in proportion: as it is, and with what can be done about each limit
    calculated  for the same sizes, by arithmetic: the load of a controller, and how long weights are on their way
    strong      more and more actors for one batch
    staleness   100 actors: what the bound costs where answers have a long tail
    failures    mean times between failures of one actor
    policy      queue pressure alone, from 1 sampler to N
"""

import argparse
import asyncio
import json
import math
import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gkd_dist.errors import GkdError, plain
from gkd_dist.simulation.driver import DriverCosts
from gkd_dist.simulation.outcome import Outcome
from gkd_dist.simulation.run import simulate, turn
from gkd_dist.simulation.scenario import (
    LearnerRates,
    Lifetimes,
    SamplerRates,
    Scaling,
    Scenario,
    TeacherRates,
    WeightRates,
)
from gkd_dist.simulation.weights import depth_of

RESULT = Path(__file__).with_suffix(".json")
IMAGES = Path(__file__).parents[1] / "docs" / "images"
CALL_S, SEQUENCE_S = 0.99e-3, 0.10e-3
"""Of the driver's processor, per call and per sequence of a call: 2.2 ms for the two calls of a sequence that goes by
itself (elastic.json); of eight that go together each costs a fifth of that (the ratio of `calls`)."""
DRIVER = DriverCosts(CALL_S, SEQUENCE_S)
TREE = WeightRates(fan_out=2)
GROUPED = 4
"""Sequences per request where requests are grouped."""
SIZES = (10, 100, 1000, 10_000)
DAY_S = 86_400.0


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="actors of the largest case of `weak`")
    parser.add_argument("--result", type=Path, default=RESULT, help="file that the figures go to")
    arguments = parser.parse_args()
    parts = arguments.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    path = arguments.result
    result = json.loads(path.read_text()) if path.exists() else {}
    result["machine"] = {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
    result["rates"] = rates()
    for name in parts:
        print(f"{name}:", flush=True)
        PARTS[name](result.setdefault(name, {}), arguments.most, lambda: write(result, path))
        write(result, path)
    print(f"written to {path}")


def write(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")
    if "weak" in result:
        draw(result)


def rates() -> dict[str, Any]:
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


def alone(scenario: Scenario, warm_up: int = 2) -> dict[str, Any]:
    """The figures of one case, from a process of its own: memory is that of this case."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(case, scenario, warm_up).result()
    print(json.dumps(found), flush=True)
    return found


def case(scenario: Scenario, warm_up: int) -> dict[str, Any]:
    setting = {
        "actors": scenario.num_samplers + scenario.num_teachers,
        "batch_size": scenario.batch_size,
        "max_staleness": scenario.max_staleness,
        "ideal_sequences_per_s": round(scenario.ideal_per_s, 2),
    }
    try:
        outcome = simulate(scenario, warm_up=warm_up)
    except GkdError as error:
        return {**setting, "ended_with": f"{type(error).__name__}: {plain(error)[:200]}"}
    return {**setting, **figures(outcome)}


def figures(outcome: Outcome) -> dict[str, Any]:
    window, measured, total = outcome.window, outcome.measured, max(1, outcome.staleness.total())
    return {
        "sequences_per_s": round(outcome.sequences_per_s, 2),
        "of_ideal": round(outcome.of_ideal, 3),
        "bottleneck": outcome.bottleneck,
        "step_s": round(window.seconds * outcome.scenario.batch_size / window.num_sequences, 2),
        "shares": {name: round(share, 3) for name, share in outcome.shares.items() if name != "cpu"},
        "staleness": {str(steps): round(number / total, 3) for steps, number in sorted(outcome.staleness.items())},
        "evicted": outcome.num_evicted,
        "deaths": outcome.num_deaths,
        "restarts": outcome.num_restarts,
        "trained": outcome.num_trained,
        "trained_twice": outcome.num_trained_twice,
        "real_cpu_us_per_sequence": round(outcome.shares["cpu"] * window.seconds / window.num_sequences * 1e6, 1),
        "real_cpu_of_a_core": round(outcome.shares["cpu"], 3),
        "real_s": round(measured.seconds, 1),
        "moments_per_real_s": round(measured.num_jumps / measured.seconds),
        "max_rss_mb": round(measured.max_rss_bytes / 1e6),
    }


def calls(found: dict[str, Any], _most: int, _write: Callable[[], None]) -> None:
    from elastic import rates as rates_of
    from elastic_ring import Settings, turning_on_ray

    async def measure(num_generations: int) -> dict[str, float]:
        import time

        async with turning_on_ray(Settings(64, 2, num_generations=num_generations), 1) as turning:
            await asyncio.sleep(3.0)
            since, cpu_s = time.time(), time.process_time()
            await asyncio.sleep(6.0)
            return rates_of(turning.pace, since, time.time(), time.process_time() - cpu_s)

    for number in (1, 8):
        found[f"{number} per request"] = asyncio.run(measure(number))
        print(found, flush=True)


EXACT = Scenario(
    num_samplers=2,
    num_teachers=2,
    batch_size=8,
    max_steps=10,
    max_staleness=1,
    prompt_tokens=10,
    sampler=SamplerRates(
        max_running=1, step_s=0.02, step_per_sequence_s=0.0, prompt_token_cost=0.0, median_tokens=50, sigma=0, load_s=0
    ),
    teacher=TeacherRates(tokens_per_s=60 / 0.4),
    learner=LearnerRates(step_s=1.2, gather_s=0.0),
    weights=WeightRates(num_bytes=0.0),
    has_housekeeping=False,
)
"""Stages of a step: 4.0 s of sampling, 1.6 s of scoring, 1.2 s of learning."""


def validation(found: dict[str, Any], _most: int, _write: Callable[[], None]) -> None:
    """Synchronous, then asynchronous: virtual and real time, and max or sum of the stages."""
    tail = replace(EXACT.sampler, median_tokens=40, sigma=0.6, max_tokens=150)
    cases = {
        "staleness 0, whole steps": (replace(EXACT, max_staleness=0, whole_steps=True), 4.0 + 1.6 + 1.2),
        "staleness 1": (EXACT, 4.0),
        "staleness 4": (replace(EXACT, max_staleness=4, max_steps=13), 4.0),
        "staleness 2, answers of many lengths": (replace(EXACT, max_staleness=2, sampler=tail, max_steps=14), None),
    }
    for name, (scenario, theory_s) in cases.items():
        virtual, real = simulate(scenario), asyncio.run(turn(scenario))
        seconds = [8 * each.window.seconds / each.window.num_sequences for each in (virtual, real)]
        found[name] = {
            "virtual_step_s": round(seconds[0], 4),
            "real_step_s": round(seconds[1], 4),
            "real_over_virtual": round(seconds[1] / seconds[0], 4),
            "theory_step_s": theory_s,
            "virtual_over_theory": theory_s and round(seconds[0] / theory_s, 4),
            "same_staleness": virtual.staleness == real.staleness,
        }
        print(name, found[name], flush=True)


def weak(found: dict[str, Any], most: int, written: Callable[[], None]) -> None:
    for size in [size for size in SIZES if size <= most]:
        for name, make in reversed(VARIANTS.items()):
            scenario, warm_up = make(size), 2
            if size < 1000 and scenario.num_shards == 1 and name.endswith("actors"):
                continue  # one controller: the case before
            if size == SIZES[0]:
                scenario, warm_up = replace(scenario, max_steps=40), 5
            elif size == SIZES[-1]:
                scenario, warm_up = replace(scenario, max_steps=8), 1
            found.setdefault(name, {})[str(size)] = {"controllers": scenario.num_shards, **alone(scenario, warm_up)}
            written()


def calculated(found: dict[str, Any], _most: int, _write: Callable[[], None]) -> None:
    """Arithmetic, no simulation: what each controller's processor and the learner's link would carry at full speed."""
    for name, make in VARIANTS.items():
        for size in SIZES:
            scenario = make(size)
            per_s, shards, weights = scenario.ideal_per_s, scenario.num_shards, scenario.weights
            step_s = scenario.batch_size / per_s
            requests = 2 * per_s / shards * (CALL_S / scenario.num_generations + SEQUENCE_S)
            orders = scenario.num_samplers / shards * CALL_S / step_s
            probes = size / shards * CALL_S / scenario.probe_interval_s
            if weights.fan_out:
                depth = depth_of(scenario.num_samplers - 1, weights.fan_out)
                hop_s = weights.fan_out * weights.num_bytes / weights.replica_bytes_per_s
                spread_s = hop_s * (1 + (depth - 1) / weights.num_pieces)
            else:
                spread_s = scenario.num_samplers * weights.num_bytes / weights.learner_bytes_per_s
            found.setdefault(name, {})[str(size)] = {
                "controllers": shards,
                "sequences_per_s": round(per_s, 1),
                "step_s": round(step_s, 2),
                "driver_requests": round(requests, 3),
                "driver_orders_to_load_weights": round(orders, 3),
                "driver_probes": round(probes, 3),
                "driver": round(requests + orders + probes, 3),
                "weights_on_their_way_s": round(spread_s, 2),
            }


def strong(found: dict[str, Any], _most: int, written: Callable[[], None]) -> None:
    """One batch of 3,200, enough for a thousand actors."""
    for size in (100, 250, 500, 1000):
        found[str(size)] = alone(replace(grouped(size), batch_size=3200))
        written()


def staleness(found: dict[str, Any], _most: int, _write: Callable[[], None]) -> None:
    for bound in (0, 1, 2, 3, 4, 6):
        found[str(bound)] = alone(replace(with_tree(100), max_staleness=bound, max_steps=12 + bound))


def failures(found: dict[str, Any], _most: int, written: Callable[[], None]) -> None:
    """100 actors; a restart takes 60 s and its back-off."""
    times = {"never": math.inf, "5 days": 5 * DAY_S, "2 hours": 7200.0, "20 minutes": 1200.0}
    for name, mtbf_s in times.items():
        found[name] = alone(replace(with_tree(100), max_steps=24, max_restarts=1000, lifetimes=Lifetimes(mtbf_s)))
        written()


def policy(found: dict[str, Any], _most: int, written: Callable[[], None]) -> None:
    for number in (8, 32):
        scenario = Scenario(
            number,
            max(2, number // 3),
            batch_size=4 * number,
            max_steps=60,
            weights=TREE,
            driver=DRIVER,
            learner=LearnerRates(step_s=8.0),
            scaling=Scaling(first=1, maximum=2 * number),
        )
        found[str(number)] = settling(scenario)
        print(found[str(number)], flush=True)
        written()


def settling(scenario: Scenario) -> dict[str, Any]:
    try:
        outcome = simulate(scenario, warm_up=40)
    except GkdError as error:
        return {"ended_with": f"{type(error).__name__}: {plain(error)[:200]}"}
    return {
        "targets": [(round(when), number) for when, number in outcome.targets],
        "settled_after_s": round(outcome.targets[-1][0]) if outcome.targets else None,
        "settled_at": outcome.targets[-1][1] if outcome.targets else 1,
        "of_ideal_then": round(outcome.of_ideal, 3),
        "restarts": outcome.num_restarts,
        "one_at_a_time_would_take_s": 30 * (scenario.num_samplers - 1),
    }


def draw(result: dict[str, Any]) -> None:
    """Throughput over the slowest role's own, by actors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axis = figure.subplots()
    for number, (name, cases) in enumerate(result["weak"].items()):
        sizes = [int(size) for size, found in sorted(cases.items(), key=lambda item: int(item[0]))]
        shares = [cases[str(size)].get("of_ideal", 0.0) for size in sizes]
        colour = ("#009e73", "#0072b2", "#e69f00", "#d55e00")[number % 4]
        axis.plot(sizes, shares, marker="o", label=name, color=colour)
    axis.set(xscale="log", xlabel="actors", ylabel="throughput / that of the slowest role", ylim=(0, 1.05))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "scale-weak.svg", metadata={"Date": None})


PARTS: dict[str, Callable[[dict[str, Any], int, Callable[[], None]], None]] = {
    "calls": calls,
    "validation": validation,
    "weak": weak,
    "calculated": calculated,
    "strong": strong,
    "staleness": staleness,
    "failures": failures,
    "policy": policy,
}

if __name__ == "__main__":
    main()
