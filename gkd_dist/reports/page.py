"""The page: one HTML file with its style, its script and its numbers inside.

What models write is text and never markup: the template escapes everything, and the page's own policy lets no script
run but the one whose digest it names, and nothing be loaded from anywhere.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from gkd_dist import __version__
from gkd_dist.reports.breakdown import Breakdown, breakdowns
from gkd_dist.reports.charts import charts
from gkd_dist.reports.numbers import table
from gkd_dist.reports.run_view import RunView
from gkd_dist.reports.settings import differences
from gkd_dist.reports.timeline import timeline
from gkd_dist.runs.moment import moment

MAX_SAMPLES = 12
"""Held-out prompts shown of each run."""
MAX_TEXT = 4000
"""Characters of one text."""
_COLUMNS = {
    "before": "student before",
    "after": "student after",
    "teacher": "teacher",
    "reference": "reference",
}


def page(runs: Sequence[RunView], now: datetime) -> str:
    """HTML of one run, or of several side by side; `now` is when it is made."""
    drawn = charts(runs)
    lines = [found for index, run in enumerate(runs) if (found := timeline(run, index, now)) is not None]
    times = {found.id: found for found in lines}
    steps = [breakdowns(run, index) for index, run in enumerate(runs)]
    script = _asset("report.js")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["moment"] = moment
    return environment.from_string(_asset("report.html.j2")).render(
        title=", ".join(run.name for run in runs),
        runs=[_run(run, times.get(f"timeline-{index}"), steps[index]) for index, run in enumerate(runs)],
        compared=len(runs) > 1,
        numbers=table(runs, now),
        charts=drawn,
        differences=differences([run.config for run in runs]) if len(runs) > 1 else [],
        data={
            "charts": [chart.plain() for chart in drawn],
            "timelines": [found.plain() for found in lines],
            "breakdowns": [found.plain() for each in steps for found in each],
        },
        style=_asset("report.css"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        made_at=moment(now.isoformat()),
        version=__version__,
    )


def _run(run: RunView, times: Any, steps: Sequence[Breakdown]) -> dict[str, Any]:
    """What the template shows of one run alone."""
    return {
        "name": run.name,
        "state": run.state,
        "is_running": run.is_running,
        "problems": run.problems,
        "timeline": times,
        "steps": steps,
        "columns": _columns(run.samples),
        "samples": [_sample(row) for row in run.samples[:MAX_SAMPLES]],
        "num_samples": len(run.samples),
        "attempts": run.attempts,
        "versions": run.versions,
        "config": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
    }


def _sample(row: dict[str, str]) -> dict[str, Any]:
    """Greedy answers where there are some, else samples."""
    greedy = "before_greedy" in row
    suffix = "_greedy" if greedy else ""
    teachers = {key: value for key, value in row.items() if key.startswith("teacher_greedy")}
    texts = {
        "before": row.get(f"before{suffix}"),
        "after": row.get(f"after{suffix}"),
        "teacher": "\n\n".join(_named(key, value, len(teachers)) for key, value in teachers.items()) or None,
        "reference": row.get("reference") or None,
    }
    return {
        "prompt": _cut(row.get("prompt", "")),
        "how": "greedy" if greedy else "sampled",
        "texts": {key: None if value is None else _cut(value) for key, value in texts.items()},
    }


def _named(key: str, text: str, num_teachers: int) -> str:
    return text if num_teachers == 1 else f"{key.removeprefix('teacher_greedy').lstrip('/')}: {text}"


def _columns(samples: Sequence[dict[str, str]]) -> dict[str, str]:
    """Those that any sample has, with their headings."""
    shown = [_sample(row)["texts"] for row in samples[:MAX_SAMPLES]]
    return {key: label for key, label in _COLUMNS.items() if any(texts[key] is not None for texts in shown)}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} [... {len(text) - MAX_TEXT} more characters]"


def _asset(name: str) -> str:
    return files("gkd_dist.reports").joinpath(name).read_text(encoding="utf-8")
