r"""Tiny models through gkd_dist in one process and through TRL's GKDTrainer: the cost of everything but the models.

    .venv/bin/python benchmarks/peers/tiny.py [--rounds 2] [--steps 22]

Llamas of two layers with random weights, hidden sizes 64 and 128, 600 or 32,000 ids, batches of 8, completions of 64
tokens, lambda 0, 0.5 and 1, float32; `cluster.mode: local` with `hf` engines. Sides take turns, each in a process of
its own; the first two steps do not count. At lambda 0.5 both toss a coin per step: steps of either kind weigh one half,
however many there were. At lambda 0 both train on the same rows in the same order, and their losses are compared.
Writes benchmarks/peers/tiny.json after each block; started again it goes on. Ends with 1 where a bar is missed.
"""

import argparse
import json
import os
import platform
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, median
from typing import Any

import gkd_side
from blocks import Blocks
from measuring import CommandError, end_whole
from sides import Peer, run_gkd, run_trl
from tiny_pair import random_rows, save_pair
from work import Work, save_rows

HERE = Path(__file__).parent
RESULT = Path(__file__).with_suffix(".json")
BATCH, NEW_TOKENS, WARM_UP = 8, 64, 2
FRACTIONS = (0.0, 0.5, 1.0)
BARS = {600: 1.5, 32000: 2.0}
"""Completion tokens per second over TRL's, by number of ids."""
LOSS_TOLERANCE = 1e-3
"""Relative, of each step's loss at lambda 0: both round differently, and the steps follow from one another."""
SIDES = ("gkd_dist", "gkd")


def main() -> int:
    options = parser()
    arguments = options.parse_args()
    if arguments.rounds < 1 or arguments.steps <= WARM_UP:
        options.error(f"--rounds must be above 0, and --steps above {WARM_UP}: the first steps do not count")
    peer = Peer(arguments.trl_python, arguments.trl_path)
    peer.check()
    end_whole()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"steps": arguments.steps, "warm_up": WARM_UP, "batch_size": BATCH, "new_tokens": NEW_TOKENS}
    settings["threads"] = arguments.threads
    machine = {"cores": os.cpu_count(), "platform": platform.platform()}
    blocks = Blocks(arguments.output, settings, machine)
    try:
        for vocabulary in arguments.vocabularies:
            works = prepare(folder.resolve() / str(vocabulary), vocabulary, arguments.steps)
            for turn in range(1, arguments.rounds + 1):
                for fraction, work in works.items():
                    for side in SIDES:
                        name = f"{vocabulary}/{fraction:g}/{turn}/{side}"
                        place = folder.resolve() / name.replace("/", "-")
                        blocks.do(
                            name,
                            lambda side=side, work=work, place=place: run(side, work, place, arguments.threads, peer),
                        )
    except CommandError as error:
        sys.exit(str(error))
    results = summarise(blocks.content)
    blocks.conclude(results=results)
    print(json.dumps(results, indent=1))
    lines = bars(results)
    for line, met in lines:
        print("reached" if met else "MISSED ", line)
    return int(not all(met for _, met in lines))


def prepare(folder: Path, vocabulary: int, steps: int) -> dict[float, Work]:
    """One work for each lambda."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = save_pair(folder, vocabulary)
    rows = save_rows(folder / "rows.jsonl", random_rows(1 + BATCH * steps, vocabulary, NEW_TOKENS))
    return {
        fraction: Work(
            student=str(pair.student),
            teacher=str(pair.teacher),
            rows=str(rows),
            max_steps=steps,
            batch_size=BATCH,
            max_new_tokens=NEW_TOKENS,
            student_fraction=fraction,
            learning_rate=1e-3,
        )
        for fraction in FRACTIONS
    }


def run(side: str, work: Work, folder: Path, threads: int, peer: Peer) -> dict[str, Any]:
    if side == "gkd":
        return run_trl(work, folder, threads, "gkd", peer)
    return run_gkd(work, folder, threads, gkd_side.LOCAL)


def summarise(content: dict[str, Any]) -> dict[str, Any]:
    """By number of ids and lambda: tokens per second of each turn, their ratio, and at lambda 0 how losses differ; of
    what both sides have done."""
    cases: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for name, block in content["blocks"].items():
        vocabulary, fraction, turn, side = name.split("/")
        cases[f"{vocabulary}/{fraction}"][side][turn] = block
    results = {}
    for case, sides in cases.items():
        both = [turn for turn in sides["gkd_dist"] if turn in sides["gkd"]]
        if not both:  # interrupted between the two
            continue
        rates = {
            side: {turn: rate(block["steps"][content["settings"]["warm_up"] :]) for turn, block in turns.items()}
            for side, turns in sides.items()
        }
        by_turn = [rates["gkd_dist"][turn] / rates["gkd"][turn] for turn in both]
        results[case] = {
            "completion_tokens_per_s": {
                side: [round(value, 1) for value in own.values()] for side, own in rates.items()
            },
            "ratio": {"median": round(median(by_turn), 2), "by_turn": [round(value, 2) for value in by_turn]},
            "parts_s": {side: parts(turns) for side, turns in sides.items()},
        }
        if case.endswith("/0"):
            curves = [[step["loss"] for step in sides[side][both[0]]["steps"]] for side in SIDES]
            differences = [abs(ours - theirs) / abs(theirs) for ours, theirs in zip(*curves, strict=True)]
            results[case]["largest_loss_difference"] = max(differences)
            results[case]["losses"] = {"first": curves[0][0], "last": curves[0][-1]}
    return results


def rate(steps: list[dict[str, Any]]) -> float:
    """Completion tokens per second, steps on the student's own text and on references weighing the same."""
    kinds: dict[bool, list[dict[str, Any]]] = defaultdict(list)
    for step in steps:
        kinds[writes(step)].append(step)
    tokens = sum(mean(step["trained_tokens"] for step in kind) for kind in kinds.values())
    return tokens / sum(mean(step["step_s"] for step in kind) for kind in kinds.values())


def writes(step: dict[str, Any]) -> bool:
    """Whether the student wrote what this step was trained on."""
    return bool(step["student_sequences"]) if "student_sequences" in step else "generate" in step["parts_s"]


def parts(turns: dict[str, Any]) -> dict[str, float]:
    """Mean seconds of a step by part, over all turns."""
    steps = [step for block in turns.values() for step in block["steps"][WARM_UP:]]
    names = list(dict.fromkeys(name for step in steps for name in step["parts_s"]))
    found = {name: mean(step["parts_s"].get(name, 0.0) for step in steps) for name in names}
    whole = mean(step["step_s"] for step in steps)
    return {name: round(value, 4) for name, value in (found | {"other": whole - sum(found.values())}).items()}


def bars(results: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each bar with what was measured, and whether it is reached."""
    found = []
    for case, result in results.items():
        vocabulary, fraction = case.split("/")
        ratio, bar = result["ratio"]["median"], BARS[int(vocabulary)]
        found.append((f"V={vocabulary} lambda={fraction}: {ratio} times TRL, at least {bar}", ratio >= bar))
        if "largest_loss_difference" in result:
            difference = result["largest_loss_difference"]
            found.append((f"V={vocabulary} lambda=0: losses differ by {difference:.1g}", difference <= LOSS_TOLERANCE))
    return found


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--trl-python", default=str(HERE / ".venv" / "bin" / "python"), help="of TRL's environment")
    made.add_argument("--trl-path", default="", help="folders in front of its packages, as PYTHONPATH")
    made.add_argument("--steps", type=int, default=22)
    made.add_argument("--rounds", type=int, default=2)
    made.add_argument("--threads", type=int, default=1, help="of each process of either side")
    made.add_argument("--vocabularies", type=int, nargs="+", choices=tuple(BARS), default=list(BARS))
    made.add_argument("--folder", type=Path, default=Path("build/peers/tiny"))
    made.add_argument("--output", type=Path, default=RESULT)
    return made


if __name__ == "__main__":
    sys.exit(main())
