"""Cases of benchmarks/publication.json: what they need, and figures of ways that were measured one after the other."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

GB = 10**9
STORE_COPIES, STORE_MORE_BYTES = 3.5, 256 << 20
PROCESS_BYTES = 400 << 20
"""What a process needs besides weights: Python, torch, Ray."""
OURS, OTHERS = ("model", "engine"), ("checkpoint", "put", "copy")

Rounds = Mapping[str, Sequence[Mapping[str, float]]]
"""Seconds by way, of each round."""


def name_of(model: str, num_receivers: int) -> str:
    """The learner's dtype is in it: cases of a learner that held bfloat16 are others."""
    return f"{model} from float32 to {num_receivers}"


def store_bytes(num_bytes: int) -> int:
    return int(STORE_COPIES * num_bytes) + STORE_MORE_BYTES


def needed_bytes(num_bytes: int, num_receivers: int, ways: Sequence[str]) -> int:
    """Memory of a case at its worst, of all processes and with the object store full.

    Args:
        num_bytes: of the weights in bfloat16.
    """
    learner = 2 * num_bytes + (num_bytes if "checkpoint" in ways else 0)  # float32, and all of it cast for the file
    copies = bool(set(ways) - {"engine"}) + ("copy" in ways) + ("engine" in ways)
    processes = 2 + num_receivers * (1 + ("engine" in ways))
    return learner + store_bytes(num_bytes) + num_receivers * copies * num_bytes + processes * PROCESS_BYTES


def check_memory(num_bytes: int, num_receivers: int, ways: Sequence[str]) -> None:
    """End this process, before anything is started, where the machine has not enough memory free."""
    needed, free = needed_bytes(num_bytes, num_receivers, ways), psutil.virtual_memory().available
    if needed > free:
        raise SystemExit(
            f"{num_bytes / GB:.2g} GB to {num_receivers} by {', '.join(ways)} need {needed / GB:.1f} GB of memory, and "
            f"{free / GB:.1f} are free: ask for fewer --receivers, fewer --ways, or a smaller --gb"
        )


def merged(before: Mapping[str, Any], found: Rounds, num_bytes: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """A case: the ways that were measured now, and those of `before` that were not.

    Args:
        before: the case as it was kept, empty if it was not.
        about: the machine now; the case has that of its last measurement, each way its own load.
    """
    load = about.get("load_average_before")
    ways = dict(before.get("ways", {}))
    for way, rounds in found.items():
        ways[way] = {**_figures(rounds, num_bytes), "load_average_before": load, "took_turns_with": _others(found, way)}
    return {
        "bytes": num_bytes,
        "bytes_per_s": "of one copy of the weights over the whole of sending and receiving",
        "machine": dict(about),
        "ways": ways,
        "times_as_fast": {
            f"{ours} over {other}": {
                "wall": round(ways[other]["total_min_s"] / ways[ours]["total_min_s"], 2),
                "wall_median": round(ways[other]["total_median_s"] / ways[ours]["total_median_s"], 2),
                "cpu": round(ways[other]["cpu_min_s"] / ways[ours]["cpu_min_s"], 2),
            }
            for ours in OURS
            for other in OTHERS
            if _took_turns(ways, ours, other)
        },
    }


def _figures(rounds: Sequence[Mapping[str, float]], num_bytes: int) -> dict[str, Any]:
    return {
        "rounds": len(rounds),
        **{key.replace("_s", "_min_s"): round(min(each[key] for each in rounds), 4) for key in rounds[0]},
        **{
            key.replace("_s", "_median_s"): round(statistics.median(each[key] for each in rounds), 4)
            for key in rounds[0]
        },
        "best_gb_per_s": round(num_bytes / min(each["total_s"] for each in rounds) / GB, 3),
    }


def _others(found: Rounds, way: str) -> list[str]:
    return [other for other in found if other != way]


def _took_turns(ways: Mapping[str, Any], one: str, other: str) -> bool:
    """Only such figures are compared: those of two measurements tell two loads of the machine apart."""
    return (
        one in ways
        and other in ways
        and other in ways[one]["took_turns_with"]
        and one in ways[other]["took_turns_with"]
    )
