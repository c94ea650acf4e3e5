"""The numbers of a run that a reader looks for first, as text."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gkd_dist.reports.run_view import RunView

RATES = {"sampler": "sampled", "teacher": "scored", "learner": "trained"}
"""Role -> what its tokens are called in a record."""
_HELD_OUT = {
    "on_policy/objective_nats": "held out, objective (nats/token)",
    "on_policy/forward_kl_nats": "held out, forward KL (nats/token)",
    "on_policy/reverse_kl_nats": "held out, reverse KL (nats/token)",
    "reference/forward_kl_nats": "references, forward KL (nats/token)",
    "reference/nll_nats": "references, NLL (nats/token)",
    "on_policy/reward_mean": "held out, mean reward",
    "on_policy/mean_length_tokens": "completion length (tokens)",
    "on_policy/truncated_share": "truncated share",
}
NOTHING = "-"


def number(value: Any) -> float | None:
    """A finite number, or None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def text(value: Any) -> str:
    """Four significant digits; thousands apart; `-` where there is none."""
    found = number(value)
    if found is None:
        return NOTHING
    if found.is_integer() and abs(found) < 1e15:
        return f"{int(found):,}"
    return f"{found:,.0f}" if abs(found) >= 1000 else f"{found:.4g}"


def duration(seconds: float) -> str:
    """`0.25 s`, `42 s`, `3 min 51 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.2g} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def total(run: RunView, key: str) -> float:
    """Over all steps."""
    return sum(number(record.get(key)) or 0.0 for record in run.records)


def headline(run: RunView, now: datetime) -> dict[str, str]:
    """What a run is and how it went, by name; the same names for every run."""
    last = run.records[-1] if run.records else {}
    steps = f"{run.num_steps}" if run.max_steps is None else f"{run.num_steps} of {run.max_steps}"
    return {
        "state": run.state,
        "train steps": steps,
        "attempts": str(len(run.attempts)),
        "wall time": duration(run.spent_s(now)) if run.attempts else NOTHING,
        "loss, first step": text(run.records[0].get("loss")) if run.records else NOTHING,
        "loss, last step": text(last.get("loss")),
        **held_out(run),
        **{f"{role}, tokens/s": text(_rate(run, moved)) for role, moved in RATES.items()},
        "sequences trained on": _sequences(run),
        "staleness, mean": text(_mean_staleness(run)),
        "staleness, largest": text(max(run.staleness, default=None)),
        "sequences too stale, or given up": text(total(run, "evicted") + total(run, "dropped")),
        "replica restarts": str(_restarts(run)),
        "learner restarts": str(sum(event.kind == "learner" for event in run.events)),
        "steps without a finite loss": text(total(run, "skipped")),
        **{f"time {name}": duration(seconds) for name, seconds in seconds_by_part(run).items()},
        "last checkpoint": NOTHING if run.last_checkpoint is None else f"step {run.last_checkpoint}",
    }


def held_out(run: RunView) -> dict[str, str]:
    """`1.248 -> 0.756` by name, of a run that has evaluated."""
    before, after = run.summary.get("before"), run.summary.get("after")
    if not isinstance(before, dict) or not isinstance(after, dict):
        return {}
    objective = "on_policy/objective_nats"
    is_other = any(
        (before.get(key), after.get(key)) == (before.get(objective), after.get(objective))
        for key in ("on_policy/forward_kl_nats", "on_policy/reverse_kl_nats")
    )
    return {
        label: f"{text(before[key])} \N{RIGHTWARDS ARROW} {text(after.get(key))}"
        for key, label in _HELD_OUT.items()
        if key in before and not (key == objective and is_other)
    }


def seconds_by_part(run: RunView) -> dict[str, float]:
    """Seconds that each part worked, over all steps; parts overlap in asynchronous runs."""
    parts = {
        "sampling": "sample_s",
        "scoring": "score_s",
        "learning": "learn_s",
        "publishing weights": "publish_s",
        "learner waiting": "wait_s",
    }
    return {name: seconds for name, key in parts.items() if (seconds := total(run, key))}


def table(runs: Sequence[RunView], now: datetime) -> list[tuple[str, list[str]]]:
    """(name, one text per run), for the names that any of them has."""
    columns = [headline(run, now) for run in runs]
    names = dict.fromkeys(name for column in sorted(columns, key=len, reverse=True) for name in column)
    return [(name, [column.get(name, NOTHING) for column in columns]) for name in names]


def _rate(run: RunView, moved: str) -> float | None:
    seconds = total(run, "step_s")
    return total(run, f"{moved}_tokens") / seconds if seconds else None


def _sequences(run: RunView) -> str:
    student, fixed = total(run, "student_sequences"), total(run, "fixed_sequences")
    return f"{text(student)} of the student, {text(fixed)} fixed" if run.records else NOTHING


def _mean_staleness(run: RunView) -> float | None:
    count = sum(run.staleness.values())
    return sum(value * times for value, times in run.staleness.items()) / count if count else None


def _restarts(run: RunView) -> int:
    return sum(event.state == "restarting" and event.reason != "new" for event in run.events if event.kind == "replica")
