"""Calibrate `gkd plan` on one real run, and compare what it says of others with what they took.

    .venv/bin/python benchmarks/plan.py [--runs FOLDER] [--only CASE ...] [--clock cpu]

Each case is `gkd run quickstart` (SmolLM2-135M teaches a copy of itself with fewer layers) in one process and on one
thread: the ring of cluster.mode=local with the hf engines. Cases differ from the one that is calibrated on in batch
size, length, model size and student_fraction. With --clock=cpu, the default, the seconds of metrics.jsonl are those of
the process's CPU time, which on one thread is what the wall clock says on a machine that does nothing else;
--clock=wall leaves the clock alone. Runs that are in FOLDER already, by the same clock, are not done again. The case
that is calibrated on is always run. Writes benchmarks/plan.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

RESULT = Path(__file__).with_suffix(".json")
COMMON = (
    "output_dir={runs}",
    "metrics.port=null",
    "evaluation.enabled=false",
    "checkpoint.save_steps=0",
    "checkpoint.journal=false",
    "teacher.verify_readout=false",
    "teacher.sentinel_steps=0",
    "teacher.score_cache_bytes=0",
    "cluster.mode=local",
    "sampler.engine=hf",
    "teacher.engine=hf",
    "objective.mix=per_sequence",
    "learner.warmup_steps=0",
)
MIDDLE = list(range(9, 27))
CALIBRATED = "base"
CASES: dict[str, tuple[str, ...]] = {
    "base": ("learner.batch_size=4", "sampling.max_new_tokens=32", "learner.max_steps=6"),
    "layers-12": (
        "learner.batch_size=4",
        "sampling.max_new_tokens=32",
        f"student.prune={{num_layers: 12, drop_layers: {MIDDLE}}}",
        "learner.max_steps=4",
    ),
    "fixed-8": (
        "learner.batch_size=8",
        "sampling.max_new_tokens=32",
        "objective.student_fraction=0",
        "learner.max_steps=4",
    ),
    "long-2": (
        "learner.batch_size=2",
        "sampling.max_new_tokens=64",
        "objective.student_fraction=1",
        "learner.max_steps=3",
    ),
    "batch-8": (
        "learner.batch_size=8",
        "sampling.max_new_tokens=32",
        "objective.student_fraction=1",
        "learner.max_steps=3",
    ),
}
CHANGED = {
    "layers-12": "half the student's layers",
    "fixed-8": "batch 8, student_fraction 0",
    "long-2": "batch 2, 64 new tokens, student_fraction 1",
    "batch-8": "batch 8, student_fraction 1",
}
ROLES = {"samplers": "sample_s", "teachers": "score_s", "learner": "learn_s", "weights": "publish_s"}
WARM_UP_STEPS = 1
OWN_CLOCK = "--run-by-cpu-clock"
"""First argument of the process that does one run."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, help="where runs are, and are kept")
    parser.add_argument("--only", nargs="+", choices=sorted(CHANGED), default=list(CHANGED), help="cases to predict")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = arguments.runs or Path(folder)
        for case in (CALIBRATED, *arguments.only):
            if not is_trained(place(runs, case, arguments.clock), CASES[case]):
                run(case, runs, arguments.clock)
        found = compare(runs, arguments.only, arguments.clock)
    result = {
        "command": "benchmarks/plan.py",
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        "clock": arguments.clock,
        "threads": 1,
        "overrides": {case: list(CASES[case]) for case in (CALIBRATED, *arguments.only)},
        **found,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for case, each in found["predicted"].items():
        print(f"{case}: step {each['step']['predicted_s']} s, was {each['step']['measured_s']} s")
    print(f"written to {RESULT}")


def place(runs: Path, case: str, clock: str) -> Path:
    """What was measured by one clock says nothing of the other: each has runs of its own."""
    return runs / f"{name_of(case, clock)}-1"


def name_of(case: str, clock: str) -> str:
    return f"{case}-{clock}"


def is_trained(directory: Path, overrides: tuple[str, ...]) -> bool:
    """Whether all train steps of the run are written down."""
    steps = next(int(each.partition("=")[2]) for each in overrides if each.startswith("learner.max_steps="))
    metrics = directory / "metrics.jsonl"
    return metrics.is_file() and len(metrics.read_text().splitlines()) >= steps


def run(case: str, runs: Path, clock: str) -> None:
    """One `gkd run` in a process of its own, one thread."""
    overrides = [each.format(runs=runs) for each in COMMON] + list(CASES[case])
    start = [__file__, OWN_CLOCK] if clock == "cpu" else ["-m", "gkd_dist"]
    command = [sys.executable, *start, "run", "quickstart", f"name={name_of(case, clock)}", *overrides]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def run_by_cpu_clock(command: list[str]) -> int:
    """One command of `gkd` whose accounts count the CPU time of this process."""
    from gkd_dist.cli import main as gkd
    from gkd_dist.pipeline.accounting import StepAccounts

    (StepAccounts.__init__.__kwdefaults__ or {})["clock"] = time.process_time
    return gkd(command)


def compare(runs: Path, cases: list[str], clock: str) -> dict[str, Any]:
    """The calibration on one run, and predictions of the others beside what they took."""
    from gkd_dist.cli.planning import Hardware, calibrated, planned_for
    from gkd_dist.config.load import load_run_config
    from gkd_dist.planning.devices import load_device, save_device
    from gkd_dist.preparation.plan_inputs import Given

    device, fits = calibrated(load_device("cpu"), place(runs, CALIBRATED, clock), 0.5)
    with tempfile.TemporaryDirectory() as folder:
        mine = Path(folder) / "mine.yaml"
        save_device(device, mine)
        predicted = {}
        for case in [CALIBRATED, *cases]:
            directory = place(runs, case, clock)
            planned = planned_for(load_run_config(str(directory / "config.yaml")), Given(), Hardware(device=str(mine)))
            busy = dict(planned.prediction.busy)
            predicted[case] = errors({**busy, "step": planned.prediction.step_s}, measured(directory))
    inside = predicted.pop(CALIBRATED)
    largest = max(abs(each["step"]["error"]) for each in predicted.values())
    return {
        "calibrated_on": CALIBRATED,
        "factors": {fit.role: round(fit.factor, 3) for fit in fits},
        "calibration_itself": inside,
        "changed": {case: CHANGED[case] for case in cases},
        "predicted": predicted,
        "largest_error_of_a_step": largest,
    }


def measured(directory: Path) -> dict[str, float]:
    """Median seconds of a steady step, by role."""
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    kept = [record for record in records if record["step"] >= WARM_UP_STEPS]
    keys = {**ROLES, "step": "step_s"}
    return {role: median(record.get(key, 0.0) for record in kept) for role, key in keys.items()}


def errors(predicted: dict[str, float], real: dict[str, float]) -> dict[str, dict[str, float]]:
    """Of each part that took any time; an error of 0.1 says a tenth too long."""
    return {
        part: {
            "predicted_s": round(predicted[part], 3),
            "measured_s": round(real[part], 3),
            "error": round(predicted[part] / real[part] - 1, 3),
        }
        for part in real
        if real[part] > 1e-6 and predicted[part] > 0
    }


if __name__ == "__main__":
    if sys.argv[1:2] == [OWN_CLOCK]:
        sys.exit(run_by_cpu_clock(sys.argv[2:]))
    main()
