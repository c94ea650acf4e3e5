"""Measure the quickstart: where a step's time goes, tokens per second of each role, peak memory of each process.

    .venv/bin/python benchmarks/quickstart.py [KEY=VALUE ...]

Runs `gkd run quickstart` as a user would, samples the resident memory of all its processes, reads the run's own
metrics.jsonl, and writes benchmarks/quickstart.json. Ends with 1 where a bar is missed: publishing is to take less than
3 % of the steps' time, the controller less than 1 %.

The controller's share is `controller_s`: all that its own thread computes, whatever else is under way. `between_s`
(`controller_share`, written down beside) is the time in which nothing else is: it leaves out what the controller
computes while a request is in flight, which makes that request longer or takes a core from an engine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
from rounds import machine

from gkd_dist.reports.breakdown import breakdowns
from gkd_dist.reports.run_view import RunView

RESULT = Path(__file__).with_suffix(".json")
PARTS = ("sample", "score", "learn", "publish")
ROLES = {"sampler": "sampled_tokens", "teacher": "scored_tokens", "learner": "trained_tokens"}
WARM_UP_STEPS = 2
SAMPLE_PERIOD_S = 0.5
BARS = {"publish_share": ("publishing", 0.03), "controller_cpu_share": ("what the controller computes", 0.01)}
"""Shares of the steps' time which these are to stay below."""
SHOWN_BYTES = 50 << 20
"""Processes that never reach this are left out."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for gkd run quickstart")
    overrides = parser.parse_args().overrides
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gkd_dist", "run", "quickstart", f"output_dir={folder}", "metrics.port=0"]
        began = time.monotonic()
        process = subprocess.Popen([*command, *overrides])
        peaks = watch_memory(process)
        elapsed_s = time.monotonic() - began
        if process.returncode != 0:
            sys.exit(f"the run failed with exit code {process.returncode}")
        run = Path(folder) / "latest"
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((run / "summary.json").read_text())
        versions = json.loads((run / "versions.json").read_text())
    result = {
        "command": f"benchmarks/quickstart.py {' '.join(overrides)}".strip(),
        "machine": about,
        "versions": versions,
        "whole_run_s": round(elapsed_s, 1),
        "steps": steady(records),
        "held_out": {"before": summary["before"], "after": summary["after"]},
        "peak_resident_mib": peaks,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["steps"], indent=2))
    judged = bars(result["steps"])
    for line, met in judged:
        print("reached" if met else "MISSED ", line)
    print(f"written to {RESULT}")
    return int(not all(met for _, met in judged))


def watch_memory(process: subprocess.Popen[bytes]) -> dict[str, int]:
    """Peak resident memory by process name, MiB, until `process` ends; shared pages count in every process."""
    peaks: dict[tuple[str, int], int] = {}
    root = psutil.Process(process.pid)
    while process.poll() is None:
        for each in [root, *root.children(recursive=True)]:
            try:
                # The title is read every time: engines and actors rename themselves after they have started.
                key = (title(each), each.pid)
                peaks[key] = max(peaks.get(key, 0), each.memory_info().rss)
            except psutil.Error:
                continue
        time.sleep(SAMPLE_PERIOD_S)
    shown: dict[str, int] = {}
    for (name, _), peak in sorted(peaks.items(), key=lambda item: -item[1]):
        if peak >= SHOWN_BYTES:
            shown[unique(name, shown)] = peak >> 20
    return shown


def title(process: psutil.Process) -> str:
    words = " ".join(process.cmdline()) or process.name()
    for name in ("gcs_server", "raylet", "dashboard", "log_monitor", "runtime_env_agent", "resource_tracker"):
        if name in words:
            return name
    if words.startswith(("ray::", "VLLM::")):
        return words.split(".")[0].split("(")[0].strip()
    return "controller" if "gkd_dist" in words else Path(words.split()[0]).name


def unique(name: str, taken: dict[str, int]) -> str:
    number = 2
    candidate = name
    while candidate in taken:
        candidate = f"{name} ({number})"
        number += 1
    return candidate


def steady(records: list[dict[str, float]]) -> dict[str, Any]:
    """Mean seconds by part and tokens per second by role, without the first steps."""
    kept = records[WARM_UP_STEPS:]
    if not kept:
        sys.exit(f"{len(records)} steps are no more than the {WARM_UP_STEPS} that do not count; ask for more")
    wall_s = sum(record["step_s"] for record in kept)
    on_policy = [record for record in kept if record["student_sequences"]]
    return {
        "measured": len(kept),
        "warm_up": WARM_UP_STEPS,
        "with_student_sequences": len(on_policy),
        "mean_step_s": round(wall_s / len(kept), 3),
        "mean_s": {part: round(mean(record.get(f"{part}_s", 0.0) for record in kept), 3) for part in PARTS},
        "mean_s_of_steps_with_student_sequences": {
            part: round(mean(record.get(f"{part}_s", 0.0) for record in on_policy), 3) if on_policy else None
            for part in PARTS
        },
        "publish_share": round(sum(record.get("publish_s", 0.0) for record in kept) / wall_s, 4),
        "controller_share": round(sum(record["between_s"] for record in kept) / wall_s, 4),
        "controller_cpu_share": round(sum(record["controller_s"] for record in kept) / wall_s, 4),
        "tokens_per_s_of_the_whole_step": {
            role: round(sum(record.get(key, 0) for record in kept) / wall_s, 1) for role, key in ROLES.items()
        },
        "tokens_per_s_while_the_role_works": {
            role: rate(kept, key, part) for (role, key), part in zip(ROLES.items(), PARTS, strict=False)
        },
        "breakdown": breakdown(records),
    }


def bars(steps: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Each bar with what was measured, and whether it is reached."""
    return [
        (f"{what}: {steps[share]:.2%} of the steps, less than {bar:.0%}", steps[share] < bar)
        for share, (what, bar) in BARS.items()
    ]


def breakdown(records: list[dict[str, float]]) -> dict[str, dict[str, object]]:
    """As the run's report draws it, by the kind of step: what each role did, and what it waited for."""
    run = RunView("quickstart", Path(), records=records)
    return {
        each.title: {
            "step_s": round(each.step_s, 3),
            "seconds": {f"{role}, {part}": seconds for role, part, seconds, _ in each.table},
        }
        for each in breakdowns(run, 0)
    }


def rate(records: list[dict[str, float]], tokens: str, part: str) -> float | None:
    seconds = sum(record.get(f"{part}_s", 0.0) for record in records)
    return round(sum(record.get(tokens, 0) for record in records) / seconds, 1) if seconds else None


if __name__ == "__main__":
    sys.exit(main())
