"""Measure what the controller costs, how the ring scales, and how long it takes to grow and to heal.

    .venv/bin/python benchmarks/elastic.py [PART ...]

Engines compute nothing and take a fixed time per token (benchmarks/elastic_parts.py); controller, replay, ledger,
metrics, pools, launchers and actors are those of a run in mode=async. Writes benchmarks/elastic.json, part by part: one
that is measured alone replaces only its own figures.

    controller  no Ray, engines that cost nothing: samples per second through the ring, and CPU time per sample
    ceiling     the same engines as Ray actors: what is left of it once every request crosses a process
    scaling     engines of fixed cost: throughput against samplers and teachers, over what the engines could do
    growth      `gkd scale` to one more sampler: from the command to the first sample that the new one serves
    recovery    SIGKILL to one of four samplers, then of four teachers: until throughput is back, which is the begin of
                the first window after the slowest one that has 95 % of the throughput before

CPU time is that of the driver process, all of its threads (`time.process_time`), over the sequences trained on.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from elastic_parts import Pace
from elastic_ring import NEW_TOKENS, Settings, Turning, turn_in_process, turning_on_ray

from gkd_dist.supervision.health import Event, State
from gkd_dist.supervision.pool import Pool

RESULT = Path(__file__).with_suffix(".json")
ACTORS = (1, 2, 4, 8)
ROUNDS = 3
GOAL_PER_S = 2000
TOKEN_S = 0.003
"""20.8 samples per second and sampler: eight of them stay below what Ray carries on two cores."""
SETTLE_S, WINDOW_S = 3.0, 6.0
RECOVERY_WINDOW_S = 2.0
RECOVERED = 0.95
"""Of the throughput before."""
LIMIT_S = 60.0

FIRST = "1 + 1 actors"
CONTROLLER_CASES = {
    FIRST: (1, Settings(64, 2, max_steps=60)),
    "2 + 2 actors": (2, Settings(64, 2, max_steps=60)),
    "4 + 4 actors": (4, Settings(64, 2, max_steps=60)),
    "8 + 8 actors": (8, Settings(64, 2, max_steps=60)),
    "8 + 8, journal": (8, Settings(64, 2, max_steps=60, journal=True)),
    "8 + 8, batch 256, max_staleness 8": (8, Settings(256, 8, max_steps=20)),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where none is named")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result["machine"] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "ray": ray.__version__,
    }
    for name in parts:
        print(f"{name}:", flush=True)
        load = round(os.getloadavg()[0], 1)
        result[name] = {"load_average_before": load, **PARTS[name]()}
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(result[name], indent=2), flush=True)
    print(f"written to {RESULT}")


def controller() -> dict[str, Any]:
    """Cases take turns, round after round; the median of each."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTROLLER_CASES}
    for _ in range(ROUNDS):
        for name, (num_replicas, settings) in CONTROLLER_CASES.items():
            cpu_s = time.process_time()
            pace = asyncio.run(turn_in_process(settings, num_replicas))
            found[name].append(rates(pace, *span(pace), time.process_time() - cpu_s))
    cases = {name: {key: median(rounds, key) for key in rounds[0]} for name, rounds in found.items()}
    return {
        "rounds": ROUNDS,
        "cases": cases,
        "goal_samples_per_s": GOAL_PER_S,
        "over_the_goal": {name: round(case["samples_per_s"] / GOAL_PER_S, 2) for name, case in cases.items()},
        "cpu_over_1_and_1": {
            name: round(case["driver_cpu_us_per_sample"] / cases[FIRST]["driver_cpu_us_per_sample"], 2)
            for name, case in cases.items()
        },
    }


def ceiling() -> dict[str, Any]:
    journal = asyncio.run(sweep(Settings(64, 2, journal=True), [(1, 1)]))["cases"][0]
    return {"with_journal": journal, **asyncio.run(sweep(Settings(64, 2), [(number, number) for number in ACTORS]))}


def scaling() -> dict[str, Any]:
    counts = [*((number, number) for number in ACTORS), (8, 2), (2, 8)]
    found = asyncio.run(sweep(Settings(16, 3, TOKEN_S), counts))
    one = 1 / (NEW_TOKENS * TOKEN_S)
    for case in found["cases"]:
        engines = one * min(case["samplers"], case["teachers"])
        case["engines_samples_per_s"] = round(engines, 1)
        case["of_what_the_engines_could"] = round(case["samples_per_s"] / engines, 3)
    return {"token_s": TOKEN_S, "tokens_per_sample": NEW_TOKENS, **found}


async def sweep(settings: Settings, counts: list[tuple[int, int]]) -> dict[str, Any]:
    """One ring, scaled from case to case while it turns."""
    cases = []
    async with turning_on_ray(settings, 1) as turning:
        for samplers, teachers in counts:
            await scale_to(turning, samplers, teachers)
            await asyncio.sleep(SETTLE_S)
            since, cpu_s = time.time(), time.process_time()
            await asyncio.sleep(WINDOW_S)
            figures = rates(turning.pace, since, time.time(), time.process_time() - cpu_s)
            cases.append({"samplers": samplers, "teachers": teachers, **figures})
            print(cases[-1], flush=True)
    first = cases[0]["samples_per_s"]
    return {
        "batch_size": settings.batch_size,
        "max_staleness": settings.max_staleness,
        "cases": cases,
        "over_one_and_one": [round(case["samples_per_s"] / first, 2) for case in cases],
    }


def growth() -> dict[str, Any]:
    return asyncio.run(grow())


async def grow() -> dict[str, Any]:
    found = []
    async with turning_on_ray(Settings(16, 3, TOKEN_S), 1) as turning:
        await asyncio.sleep(SETTLE_S)
        for number in (2, 3, 4):
            found.append(await grow_to(turning, number))
            print(found[-1], flush=True)
    return {"cases": found, "median_s": {key: median(found, key) for key in found[0] if key.endswith("_s")}}


async def grow_to(turning: Turning, number: int) -> dict[str, float]:
    command = [sys.executable, "-m", "gkd_dist", "scale", str(turning.run), "--samplers", str(number)]
    pool, began = turning.samplers, time.time()
    asked = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    await until(lambda: pool.target == number)
    seen = time.time()
    await until(lambda: len(pool.serving) == number)
    serving, pid = time.time(), pid_of(pool, number - 1)
    first = await first_answer(turning, "sampler", pid)
    await until(lambda: asked.poll() is not None)
    return {
        "samplers": number,
        "command_to_the_run_knows_s": round(seen - began, 2),
        "the_run_knows_to_it_serves_s": round(serving - seen, 2),
        "the_run_knows_to_first_sample_s": round(first - seen, 2),
        "command_to_first_sample_s": round(first - began, 2),
        "command_returned_s": round(time.time() - began, 2),
    }


def recovery() -> dict[str, Any]:
    return asyncio.run(recover())


async def recover() -> dict[str, Any]:
    found = {}
    async with turning_on_ray(Settings(16, 3, TOKEN_S), 1) as turning:
        await scale_to(turning, 4, 4)
        for role in ("sampler", "teacher"):
            found[role] = await heal(turning, role)
            print(role, found[role], flush=True)
    return {"of_each_role": 4, "window_s": RECOVERY_WINDOW_S, "recovered_at": RECOVERED, "killed": found}


async def heal(turning: Turning, role: str) -> dict[str, float]:
    pool = turning.samplers if role == "sampler" else turning.teachers
    await asyncio.sleep(SETTLE_S)
    since = time.time()
    await asyncio.sleep(WINDOW_S)
    before = turning.pace.rate(since, time.time())
    victim, num_events = pid_of(pool, 1), len(pool.events)
    offset = time.time() - time.monotonic()
    killed = time.time()
    os.kill(victim, signal.SIGKILL)
    await until(lambda: any(event.to_state is State.DEAD for event in pool.events[num_events:]))
    await until(lambda: len(pool.serving) == pool.target)
    first = await first_answer(turning, role, pid_of(pool, 1))
    await asyncio.sleep(WINDOW_S)
    events = pool.events[num_events:]
    starts = [killed + step * 0.05 for step in range(int((time.time() - killed - RECOVERY_WINDOW_S) / 0.05))]
    shares = [turning.pace.rate(start, start + RECOVERY_WINDOW_S) / before for start in starts]
    lowest = min(range(len(shares)), key=shares.__getitem__)
    back = next(
        (start for start, share in zip(starts[lowest:], shares[lowest:], strict=True) if share >= RECOVERED), None
    )
    return {
        "samples_per_s_before": round(before, 1),
        "kill_to_noticed_s": round(when(events, State.DEAD) + offset - killed, 2),
        "kill_to_restart_s": round(when(events, State.RESTARTING) + offset - killed, 2),
        "kill_to_serving_s": round(when(events, State.HEALTHY) + offset - killed, 2),
        "kill_to_first_answer_s": round(first - killed, 2),
        "lowest_share": round(shares[lowest], 3),
        "engines_without_it_share": round(1 - 1 / pool.target, 3),
        "kill_to_recovered_s": None if back is None else round(back - killed, 2),
    }


async def scale_to(turning: Turning, samplers: int, teachers: int) -> None:
    """Return once exactly so many serve."""
    for pool, number in ((turning.samplers, samplers), (turning.teachers, teachers)):
        pool.set_target(number)
    for pool in (turning.samplers, turning.teachers):
        await until(lambda pool=pool: len(pool.serving) == pool.target == len(pool.states))


async def first_answer(turning: Turning, role: str, pid: int) -> float:
    """When the process answered its first request, seconds since the epoch."""
    file = turning.diary / f"{role}-first-{pid}"
    await until(lambda: file.exists() and file.read_text())
    return float(file.read_text())


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        await asyncio.sleep(0.01)


def pid_of(pool: Pool[Any], slot: int) -> int:
    return int(next(view.place["pid"] for view in pool.slots if view.slot == slot))


def when(events: list[Event], state: State) -> float:
    """Of the first of them that led there."""
    return next(event.when for event in events if event.to_state is state)


def span(pace: Pace) -> tuple[float, float]:
    return pace.marks[0][0], pace.marks[-1][0]


def rates(pace: Pace, since: float, until: float, cpu_s: float) -> dict[str, float]:
    per_s = pace.rate(since, until)
    return {
        "samples_per_s": round(per_s, 1),
        "driver_cpu_us_per_sample": round(cpu_s / (per_s * (until - since)) * 1e6, 1),
        "driver_cores": round(cpu_s / (until - since), 3),
    }


def median(found: list[dict[str, float]], key: str) -> float:
    return round(statistics.median(each[key] for each in found), 3)


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "controller": controller,
    "ceiling": ceiling,
    "scaling": scaling,
    "growth": growth,
    "recovery": recovery,
}

if __name__ == "__main__":
    main()
