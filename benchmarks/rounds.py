"""Providers that take turns in one process, and the machine they ran on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

Work = Callable[[], object]


def take_turns(
    works: Mapping[str, Work], num_rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each in `num_rounds` rounds after one that does not count.

    Args:
        clock: `time.process_time` leaves out what others do on the processor meanwhile; for work on one thread.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(num_rounds + 1):
        for name, work in works.items():
            start = clock()
            kept = work()
            seconds[name].append(clock() - start)
            del kept
    return {name: values[1:] for name, values in seconds.items()}


def ratio(seconds: Mapping[str, list[float]], slower: str, faster: str) -> dict[str, float]:
    """How many times as fast one is as the other: of the fastest rounds, and the median within rounds."""
    pairs = zip(seconds[slower], seconds[faster], strict=True)
    return {
        "fastest": round(min(seconds[slower]) / min(seconds[faster]), 3),
        "median": round(statistics.median(one / other for one, other in pairs), 3),
    }


def summary(seconds: Iterable[float], num_bytes: int) -> dict[str, float]:
    """Milliseconds and GB (10^9 bytes) per second, of the fastest and of the median round."""
    taken = list(seconds)
    fastest, median = min(taken), statistics.median(taken)
    return {
        "min_ms": round(fastest * 1e3, 4),
        "median_ms": round(median * 1e3, 4),
        "best_gb_per_s": round(num_bytes / fastest / 1e9, 2),
        "median_gb_per_s": round(num_bytes / median / 1e9, 2),
    }


def cpu_seconds() -> float:
    """Of this process and all below it."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue
        total += used.user + used.system
    return total


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "load_average_before": round(os.getloadavg()[0], 1),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
