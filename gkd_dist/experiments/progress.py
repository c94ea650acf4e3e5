"""How far an experiment is, what it has cost, and what it still will."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gkd_dist.experiments.plan import PlannedRun
from gkd_dist.experiments.record import log_path
from gkd_dist.experiments.schedule import Schedule, State
from gkd_dist.experiments.survey import Standing
from gkd_dist.metrics.sinks import duration

_TAIL_BYTES = 16384
"""More than the last line of a metrics file."""


def measured_cpu_s(standings: Sequence[Standing]) -> float:
    """Of all that was done so far, failed and stopped attempts included."""
    return sum(each.record.cpu_s for each in standings if each.record is not None)


def remaining_cpu_s(standings: Sequence[Standing], running: Sequence[str] = ()) -> float:
    """An estimate: that of the experiment, corrected by what finished runs of the same stage really took.

    Args:
        running: names of runs whose steps so far count as done.
    """
    ratios = _ratios(standings)
    overall = ratios.get(None, 1.0)
    total = 0.0
    for each in standings:
        if each.is_done:
            continue
        done = each.run.num_steps * each.run.step_cpu_s if each.is_trained else 0.0
        if not each.is_trained and each.run.name in running:
            done = steps_done(each.run) * each.run.step_cpu_s
        total += max(0.0, each.run.estimated_cpu_s - done) * ratios.get(each.run.stage, overall)
    return total


def parallelism(standings: Sequence[Standing], num_cpus: float) -> float:
    """CPU seconds that a second of waiting brings: measured where anything was, at most all CPUs."""
    parts = [(each.run, part) for each in standings if each.record for part in each.record.parts]
    wall = sum(part.wall_s * run.num_cpus for run, part in parts)
    busy = sum(part.cpu_s for _, part in parts)
    return max(0.05, min(1.0, busy / wall) if wall > 0 else 1.0) * num_cpus


def steps_done(run: PlannedRun) -> int:
    """Train steps of the run as its own metrics tell; 0 where they do not."""
    try:
        with (run.folder / "latest" / "metrics.jsonl").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            step = json.loads(line)["policy_version"]
        except (ValueError, KeyError, TypeError):  # cut off, or a record of something else
            continue
        return min(int(step), run.num_steps)
    return 0


def status_record(schedule: Schedule) -> dict[str, float | int | str]:
    """For `metrics.sinks`: one line for people."""
    standings = list(schedule.standings.values())
    counts = Counter(schedule.states.values())
    running = schedule.running()
    left = remaining_cpu_s(standings, running)
    record: dict[str, float | int | str] = {"runs": f"{counts['done']}/{len(standings)}"}
    if running:
        record["now"] = ", ".join(_with_step(schedule.standings[name].run) for name in running)
    for state in ("failed", "blocked"):
        if counts[state]:
            record[state] = counts[state]
    spent = measured_cpu_s(standings)
    record["CPU h"] = f"{spent / 3600:.2f} of {(spent + left) / 3600:.2f}"
    record["ETA"] = duration(left / parallelism(standings, schedule.num_parallel_cpus))
    return record


def state_document(name: str, scale: str, schedule: Schedule) -> dict[str, Any]:
    """What `experiment.json` says."""
    standings = schedule.standings
    return {
        "experiment": name,
        "scale": scale,
        "cpu_s": round(measured_cpu_s(list(standings.values())), 1),
        "remaining_cpu_s": round(remaining_cpu_s(list(standings.values()), schedule.running()), 1),
        "runs": {
            each: _run_document(standings[each], state, schedule.failures) for each, state in schedule.states.items()
        },
    }


def cost_table(plan: Sequence[PlannedRun]) -> list[list[str]]:
    """Stage, number of runs, estimated CPU hours; one row each and one for all."""
    stages: dict[str, list[PlannedRun]] = defaultdict(list)
    for run in plan:
        stages[run.stage].append(run)
    rows = [[stage, str(len(runs)), _hours(runs)] for stage, runs in stages.items()]
    return [*rows, ["all", str(len(plan)), _hours(plan)]]


def log_tail(path: Path, num_lines: int = 3) -> list[str]:
    """The last lines of a log that say something."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-num_lines:]


def _ratios(standings: Sequence[Standing]) -> Mapping[str | None, float]:
    """Measured over estimated CPU time of finished runs, by stage; None: of all."""
    measured: dict[str | None, float] = defaultdict(float)
    estimated: dict[str | None, float] = defaultdict(float)
    for each in standings:
        if each.is_done and each.record is not None and each.record.cpu_s > 0:
            for key in (each.run.stage, None):
                measured[key] += each.record.cpu_s
                estimated[key] += each.run.estimated_cpu_s
    return {key: measured[key] / estimated[key] for key in measured if estimated[key] > 0}


def _with_step(run: PlannedRun) -> str:
    return f"{run.name} {steps_done(run)}/{run.num_steps}" if run.num_steps else run.name


def _run_document(standing: Standing, state: State, failures: Mapping[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = {"state": state, "cpu_s": standing.record.cpu_s if standing.record else 0.0}
    if standing.run.name in failures:
        document |= {"why": failures[standing.run.name], "log": str(log_path(standing.run))}
    return document


def _hours(runs: Sequence[PlannedRun]) -> str:
    return f"{sum(run.estimated_cpu_s for run in runs) / 3600:.2f}"
