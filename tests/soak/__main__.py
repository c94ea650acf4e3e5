"""The soak of ten minutes: `make soak`. Prints every fault with its time and a report; exit code 1 where a promise
was broken."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.soak import machine
from tests.soak.course import Course, run, run_with_faults
from tests.soak.injector import Menu
from tests.soak.verdict import broken_promises, divergence_gap, started_with, still_running


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2400, help="train steps; faults end at nine tenths of them")
    parser.add_argument("--gap", type=float, default=8.0, help="mean seconds between two faults")
    parser.add_argument("--learner-kills", type=float, nargs="*", default=[120.0, 300.0], help="seconds from the start")
    parser.add_argument("--output", type=Path, help="file for the report, JSON")
    asked = parser.parse_args()
    menu = Menu(asked.gap, machine.TARGETS, tuple(asked.learner_kills))
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, machine.cluster() as (address, mark):
        inputs = machine.save_models_and_data(Path(folder))

        def settings(name: str) -> list[str]:
            return machine.overrides(
                inputs, Path(folder) / name, num_steps=asked.steps, seed=asked.seed, **machine.on_cluster(address)
            )

        clean = run(settings("clean"))
        faulty = run_with_faults(settings("faulty"), menu, seed=asked.seed, last_step=asked.steps * 9 // 10)
        broken = broken_promises(clean) + broken_promises(faulty)
        broken += [f"process {pid} is still running" for pid in still_running(faulty.pids | clean.pids)]
        report = _report(clean, faulty, asked)
    broken += [f"process {pid} outlived the cluster" for pid in still_running(started_with(machine.MARK, mark))]
    report["broken_promises"] = broken
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if asked.output:
        asked.output.write_text(text)
    return 1 if broken else 0


def _report(clean: Course, faulty: Course, asked: argparse.Namespace) -> dict[str, object]:
    runs = {"clean": clean, "with faults": faulty}
    return {
        "seed": asked.seed,
        "steps": asked.steps,
        "faults": dict(sorted(faulty.num_faults.items())),
        "healings": dict(sorted(faulty.healed.items())),
        "training_s": {name: round(each.training_s, 1) for name, each in runs.items()},
        "trained_tokens_per_s": {name: round(each.num_trained_tokens / each.training_s) for name, each in runs.items()},
        "held_out_before": clean.held_out["before"],
        "held_out_after": {name: each.held_out["after"] for name, each in runs.items()},
        "divergence_gap": divergence_gap(clean, faulty),
        "injected": [str(each) for each in faulty.injected],
    }


if __name__ == "__main__":
    sys.exit(main())
