"""From the blocks of `pretrained.py` to its figures."""

from collections import defaultdict
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from work import steady

from gkd_dist.evaluation.intervals import Bootstrap

BARS = {"float32": 2.5, "bfloat16": 2.5}
"""Trained tokens per second over those of TRL's GKDTrainer, steady state."""
GOAL = {"bfloat16": 3.5}
HELD_OUT = {
    "on_policy": "student_text/forward_kl_nats",
    "reference": "reference_text/forward_kl_nats",
}


def summarise(content: dict[str, Any], ours: str) -> dict[str, Any]:
    """Results by dtype: steady state, whole process and memory of each side, ratios of each turn, divergences.

    Args:
        content: of the file that `Blocks` keeps.
        ours: the side that the others are compared with.
    """
    blocks, warm_up = content["blocks"], content["settings"]["warm_up"]
    turns: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for name, block in blocks.items():
        parts = name.split("/")
        if len(parts) == 3 and parts[1].isdigit():
            turns[parts[0]][int(parts[1])][parts[2]] = block
    results = {}
    for dtype, by_turn in turns.items():
        names = list(by_turn[1])
        rates = {
            name: [steady(_counted(turn[name], warm_up), 0)["trained_tokens_per_s"] for turn in by_turn.values()]
            for name in names
        }
        whole = {name: [_whole(turn[name]) for turn in by_turn.values()] for name in names}
        results[dtype] = {
            "sides": {
                name: {
                    **_steady(by_turn.values(), name, warm_up),
                    "trained_tokens_per_s_by_turn": rates[name],
                    "whole_process_tokens_per_s_by_turn": whole[name],
                    "whole_s": [turn[name]["whole_s"] for turn in by_turn.values()],
                    "peak_pss_mib": max(turn[name]["peak_pss_mib"] for turn in by_turn.values()),
                }
                for name in names
            },
            "ratio": {name: _ratios(rates[ours], rates[name]) for name in names if name != ours},
            "whole_process_ratio": {name: _ratios(whole[ours], whole[name]) for name in names if name != ours},
            "in_the_time_of": blocks.get(f"{dtype}/equal-time", {}).get("in_the_time_of", {}),
            "held_out_nats": _held_out(blocks, dtype),
            "held_out_over": {
                name: {kind: _difference(blocks, dtype, ours, name, kind) for kind in HELD_OUT}
                for name in names
                if name != ours and f"held-out/{dtype}/{name}" in blocks
            },
        }
    return results


def bars(results: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each bar with what was measured, and whether it is reached."""
    found = []
    for dtype, result in results.items():
        if "gkd" in result["ratio"]:
            ratio = result["ratio"]["gkd"]["median"]
            found.append((f"{dtype}: {ratio} times GKDTrainer, at least {BARS[dtype]}", ratio >= BARS[dtype]))
        for kind in HELD_OUT:
            for other, by_kind in result["held_out_over"].items():
                more = by_kind[kind]
                found.append(
                    (
                        f"{dtype}: {kind} forward KL after equal steps {more['value']:+.4f} nats from that of {other} "
                        f"[{more['low']:+.4f}, {more['high']:+.4f}]; not shown to be worse",
                        more["low"] <= 0,
                    )
                )
    return found


def goals(results: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each goal beyond a bar, in the same way; one that is not reached misses nothing."""
    found = []
    for dtype, goal in GOAL.items():
        if "gkd" in results.get(dtype, {}).get("ratio", {}):
            ratio = results[dtype]["ratio"]["gkd"]["median"]
            found.append((f"{dtype}: {ratio} times GKDTrainer, goal {goal}", ratio >= goal))
    return found


def _steady(turns: Any, name: str, warm_up: int) -> dict[str, Any]:
    """Of all turns together: every kept step weighs the same."""
    steps = [step for turn in turns for step in _counted(turn[name], warm_up)]
    return steady(steps, 0) | {
        "min_step_s": round(min(step["step_s"] for step in steps), 3),
        "median_step_s": round(median(step["step_s"] for step in steps), 3),
    }


def _counted(block: dict[str, Any], warm_up: int) -> Any:
    """Without the warm-up and without the last step, after which gkd_dist has nothing to publish."""
    return block["steps"][warm_up:-1]


def _whole(block: dict[str, Any]) -> float:
    return round(sum(step["trained_tokens"] for step in block["steps"]) / block["whole_s"], 2)


def _ratios(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    by_turn = [round(a / b, 2) for a, b in zip(ours, theirs, strict=True)]
    return {"median": round(median(by_turn), 2), "by_turn": by_turn}


def _held_out(blocks: dict[str, Any], dtype: str) -> dict[str, Any]:
    found = {}
    for name, figures in blocks.items():
        if not name.startswith("held-out/"):
            continue
        student = name.removeprefix("held-out/")
        if student == "before" or student.startswith(f"{dtype}/"):
            found[student.removeprefix(f"{dtype}/")] = {
                kind: figures["figures"][figure] for kind, figure in HELD_OUT.items()
            }
    return found


def _difference(blocks: dict[str, Any], dtype: str, ours: str, other: str, kind: str) -> dict[str, float]:
    """How many nats per token ours is further from the teacher: 95 % interval over resamples of the same prompts."""
    (nats, tokens), (their_nats, their_tokens) = (
        np.array(blocks[f"held-out/{dtype}/{name}"]["rows"][kind], dtype=np.float64).T for name in (ours, other)
    )

    def difference(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        of_ours = nats[rows].sum(axis=-1) / tokens[rows].sum(axis=-1)
        return of_ours - their_nats[rows].sum(axis=-1) / their_tokens[rows].sum(axis=-1)

    figure = Bootstrap().figure([len(nats)], difference)
    return {"value": round(figure.value, 5), "low": round(figure.low, 5), "high": round(figure.high, 5)}
