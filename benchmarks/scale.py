"""What breaks first on the way to thousands of actors: the real controller over simulated engines, in virtual time.

    .venv/bin/python benchmarks/scale.py [PART ...] [--sizes N ...] [--again]

Real: controller, intake, replay, ledger, supervised pools, status file, metrics, scaling policy (gkd_dist/simulation).
Simulated: engines, links, failures, and what a call costs the controller's processor (planning/controller.py, from
`calls`). Writes benchmarks/scale.json and docs/images/scale-weak.svg after every case; a case that is there already,
of the same scenario, is kept, so that a run that was stopped goes on where it was. Each case has a process of its own.

    calls       Ray, engines that cost nothing: what 1 and 8 sequences per request cost the driver
    validation  one small ring in real time and in virtual time, beside the theory of overlap
    calculated  10 to 10,000 actors by arithmetic: the load of a controller, and how long weights are on their way
    weak        the same, simulated, batch in proportion: as it is, and with what can be done about each limit
    strong      more and more actors for one batch
    staleness   100 actors: what the bound costs where answers have a long tail
    failures    mean times between failures of one actor
    policy      queue pressure alone, from 1 sampler to N
    planned     what `gkd plan` predicts of runs on 10, 100 and 1,000 devices, beside their simulation
"""

import argparse
import asyncio
import math
import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from counts import positive, writable
from kept_cases import KeptCases
from scale_fleets import DRIVER, SIZES, TREE, VARIANTS, grouped, load, rates, with_tree
from scale_plans import PLANNED, plan_of

from gkd_dist.errors import GkdError, plain
from gkd_dist.planning.prediction import Prediction
from gkd_dist.process import end_with_parent
from gkd_dist.simulation.outcome import Outcome
from gkd_dist.simulation.run import simulate, turn
from gkd_dist.simulation.scenario import LearnerRates, Lifetimes, Scaling, Scenario

RESULT = Path(__file__).with_suffix(".json")
IMAGES = Path(__file__).parents[1] / "docs" / "images"
DAY_S = 86_400.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--sizes", type=positive, nargs="+", default=SIZES, help="actors of weak, calculated")
    parser.add_argument("--again", action="store_true", help="measure what is kept anew")
    parser.add_argument("--result", type=writable, default=RESULT, help="file of the figures; draws none elsewhere")
    arguments = parser.parse_args()
    parts = arguments.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    machine = {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
    cases = KeptCases(
        arguments.result,
        {"machine": machine, "rates": rates()},
        frozenset(parts if arguments.again else ()),
        draw if arguments.result == RESULT else lambda _: None,
    )
    for name in parts:
        PARTS[name](cases, arguments.sizes)
    print(f"written to {arguments.result}")


def simulated(cases: KeptCases, *names: str, scenario: Scenario, warm_up: int = 2) -> None:
    """One case, in a process of its own: memory is that of this case."""

    def measure() -> dict[str, Any]:
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as pool:
            return pool.submit(case, scenario, warm_up).result()

    cases.do(*names, of=(scenario, warm_up), measure=measure)


def case(scenario: Scenario, warm_up: int) -> dict[str, Any]:
    setting = {
        "controllers": scenario.num_shards,
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
        "real_cpu_s": round(measured.cpu_s, 1),
        "real_s": round(measured.seconds, 1),
        "moments_per_real_s": round(measured.num_jumps / measured.seconds),
        "max_rss_mb": round(measured.max_rss_bytes / 1e6),
    }


def calls(cases: KeptCases, _: object) -> None:
    from elastic_ring import Settings

    for number in (1, 8):
        settings = Settings(64, 2, num_generations=number)
        cases.do("calls", f"{number} per request", of=settings, measure=partial(on_ray, settings))


def on_ray(settings: Any) -> dict[str, float]:
    """What a sequence costs the driver, over six seconds."""
    import time

    from elastic import rates as rates_of
    from elastic_ring import turning_on_ray

    async def measure() -> dict[str, float]:
        async with turning_on_ray(settings, 1) as turning:
            await asyncio.sleep(3.0)
            since, cpu_s = time.time(), time.process_time()
            await asyncio.sleep(6.0)
            return rates_of(turning.pace, since, time.time(), time.process_time() - cpu_s)

    return asyncio.run(measure())


EXACT = Scenario.of_stages(4.0, 1.6, 1.2, max_steps=10, max_staleness=1)


def validation(cases: KeptCases, _: object) -> None:
    """Synchronous, then asynchronous: virtual and real time, and max or sum of the stages."""
    tail = replace(EXACT.sampler, median_tokens=40, sigma=0.6, max_tokens=150)
    rings = {
        "staleness 0, whole steps": (replace(EXACT, max_staleness=0, whole_steps=True), 4.0 + 1.6 + 1.2),
        "staleness 1": (EXACT, 4.0),
        "staleness 4": (replace(EXACT, max_staleness=4, max_steps=13), 4.0),
        "staleness 2, answers of many lengths": (replace(EXACT, max_staleness=2, sampler=tail, max_steps=14), None),
    }
    for name, (scenario, theory_s) in rings.items():
        cases.do("validation", name, of=(scenario, theory_s), measure=partial(in_both_times, scenario, theory_s))


def in_both_times(scenario: Scenario, theory_s: float | None) -> dict[str, Any]:
    virtual, real = simulate(scenario), asyncio.run(turn(scenario))
    seconds = [8 * each.window.seconds / each.window.num_sequences for each in (virtual, real)]
    return {
        "virtual_step_s": round(seconds[0], 4),
        "real_step_s": round(seconds[1], 4),
        "real_over_virtual": round(seconds[1] / seconds[0], 4),
        "theory_step_s": theory_s,
        "virtual_over_theory": theory_s and round(seconds[0] / theory_s, 4),
        "same_staleness": virtual.staleness == real.staleness,
    }


def calculated(cases: KeptCases, sizes: list[int]) -> None:
    for name, make in VARIANTS.items():
        for size in sizes:
            cases.do("calculated", name, str(size), of=make(size), measure=partial(load, make(size)))


def weak(cases: KeptCases, sizes: list[int]) -> None:
    for size in sizes:
        for name, make in reversed(VARIANTS.items()):
            scenario, warm_up = make(size), 2
            if scenario.num_shards == 1 and name.endswith("actors"):
                continue  # one controller: the case before
            if size <= SIZES[0]:
                scenario, warm_up = replace(scenario, max_steps=40), 5
            elif size >= SIZES[-1]:
                scenario, warm_up = replace(scenario, max_steps=8), 1
            simulated(cases, "weak", name, str(size), scenario=scenario, warm_up=warm_up)


def strong(cases: KeptCases, _: object) -> None:
    """One batch, which is as much as the samplers of a hundred, or of a thousand actors run at once."""
    for batch_size in (320, 3200):
        for per_hundred in (10, 25, 50, 100, 200):
            size = per_hundred * batch_size // 320
            scenario = replace(grouped(size), batch_size=batch_size)
            simulated(cases, "strong", str(batch_size), str(size), scenario=scenario)


def staleness(cases: KeptCases, _: object) -> None:
    for bound in (0, 1, 2, 3, 4, 6):
        scenario = replace(with_tree(100), max_staleness=bound, max_steps=12 + bound)
        simulated(cases, "staleness", str(bound), scenario=scenario)


def failures(cases: KeptCases, _: object) -> None:
    """100 actors; a restart takes 60 s and its back-off."""
    times = {"never": math.inf, "5 days": 5 * DAY_S, "2 hours": 7200.0, "20 minutes": 1200.0}
    for name, mtbf_s in times.items():
        scenario = replace(with_tree(100), max_steps=24, max_restarts=1000, lifetimes=Lifetimes(mtbf_s))
        simulated(cases, "failures", name, scenario=scenario)


def policy(cases: KeptCases, _: object) -> None:
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
        cases.do("policy", str(number), of=scenario, measure=partial(settling, scenario))


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


def planned(cases: KeptCases, _: object) -> None:
    for size, bound in product(PLANNED, (0, 4)):
        made = plan_of(size, bound)
        cases.do("planned", f"staleness {bound}", str(size), of=made, measure=partial(predicted, *made))


def predicted(found: Prediction, scenario: Scenario) -> dict[str, Any]:
    outcome = simulate(scenario)
    step_s = outcome.window.seconds * scenario.batch_size / outcome.window.num_sequences
    return {
        "devices": found.devices,
        "split": asdict(found.split),
        "batch_size": scenario.batch_size,
        "predicted_step_s": round(found.step_s, 3),
        "simulated_step_s": round(step_s, 3),
        "predicted_over_simulated": round(found.step_s / step_s, 3),
        "predicted_bottleneck": found.bottleneck,
        "simulated_bottleneck": outcome.bottleneck,
    }


def draw(result: dict[str, Any]) -> None:
    """Throughput over the slowest role's own, by actors."""
    if not IMAGES.is_dir():  # this is a copy without docs
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axis = figure.subplots()
    for number, name in enumerate(VARIANTS):
        cases = {int(size): found for size, found in result.get("weak", {}).get(name, {}).items()}
        shares = [cases[size].get("of_ideal", 0.0) for size in sorted(cases)]
        colour = ("#009e73", "#0072b2", "#e69f00", "#d55e00")[number]
        axis.plot(sorted(cases), shares, marker="o", label=name, color=colour)
    axis.set(xscale="log", xlabel="actors", ylabel="throughput / that of the slowest role", ylim=(0, 1.05))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    figure.savefig(IMAGES / "scale-weak.svg", metadata={"Date": None})


PARTS: dict[str, Callable[[KeptCases, list[int]], None]] = {
    "calls": calls,
    "validation": validation,
    "calculated": calculated,
    "weak": weak,
    "strong": strong,
    "staleness": staleness,
    "failures": failures,
    "policy": policy,
    "planned": planned,
}

if __name__ == "__main__":
    main()
