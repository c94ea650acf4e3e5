"""What `gkd status --watch` does: a live view of a run on a terminal; elsewhere a line whenever it has moved on."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gkd_dist.inspection import content_of, lines_of
from gkd_dist.metrics.sinks import duration
from gkd_dist.operations.pace import Pace, read_pace
from gkd_dist.operations.silence import silence
from gkd_dist.operations.subject import RunSubject, again
from gkd_dist.runs.documents import on_disk, read_intact
from gkd_dist.runs.lock import holder_of
from gkd_dist.runs.status import RoleStatus, Status, alike

_POLL_S = 1.0
_COLOURS = {"healthy": "green", "suspect": "yellow", "stale": "cyan", "draining": "cyan", "restarting": "yellow"}


@on_disk()
def watch(subject: RunSubject, *, as_json: bool, sleep: Callable[[float], None] = time.sleep) -> int:
    """Shows the run until it ends; returns 0. With `as_json` one object per line."""
    if as_json or not sys.stdout.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        _print_changes(subject, as_json=as_json, sleep=sleep)
        return 0
    with Live(view(subject), console=Console(highlight=False), auto_refresh=False, screen=False) as live:
        while is_alive(subject):
            sleep(_POLL_S)
            subject = again(subject)
            live.update(view(subject), refresh=True)
    return 0


def is_alive(subject: RunSubject) -> bool:
    """Whether there is anything to wait for."""
    if subject.job is not None:
        return not subject.job.state.has_ended
    return subject.directory is not None and holder_of(subject.directory.lock) is not None


def view(subject: RunSubject) -> Group:
    """One moment of the run, for a terminal."""
    head, *rest = [Text(line, overflow="ellipsis", no_wrap=True) for line in lines_of(subject)]
    head.stylize("bold")
    directory = subject.directory
    seen = None if directory is None else read_intact(directory.status, Status)
    if directory is None or seen is None or not is_alive(subject):
        return Group(head, *rest)
    pace = read_pace(directory.metrics)
    silent = silence(directory, holder_of(directory.lock), seen)
    return Group(
        *([head, rest[0]] if subject.job is not None else []),
        Text(f"{directory.name}  {seen.state}", style="bold"),
        *([] if silent is None else [Text(silent, style="bold red")]),
        _progress(seen, pace),
        _roles(seen, pace),
        Text(_flow(seen)),
        Text(_verdict(pace), style="bold"),
        Text(f"last checkpoint: {'none' if seen.last_checkpoint is None else f'step {seen.last_checkpoint}'}"),
        Text(str(directory.path), style="dim"),
    )


def _print_changes(subject: RunSubject, *, as_json: bool, sleep: Callable[[float], None]) -> None:
    shown = ""
    while True:
        alive = is_alive(subject)
        text = json.dumps(content_of(subject)) if as_json else line_of(subject)
        if text != shown:
            print(text, flush=True)
            shown = text
        if not alive:
            return
        sleep(_POLL_S)
        subject = again(subject)


def line_of(subject: RunSubject) -> str:
    """One moment of the run in a line."""
    directory = subject.directory
    seen = None if directory is None else read_intact(directory.status, Status)
    if directory is None or seen is None or not is_alive(subject):
        return next(iter(lines_of(subject)), subject.name)
    pace = read_pace(directory.metrics)
    silent = silence(directory, holder_of(directory.lock), seen)
    roles = {"samplers": seen.samplers, **seen.teachers}
    parts = [
        f"{directory.name}: {seen.state}, step {seen.step}/{seen.max_steps}",
        *([] if silent is None else [silent]),
        *([] if pace.loss is None else [f"loss {pace.loss:.4g}"]),
        " ".join(f"{name} {role.num_serving}/{role.target}" for name, role in roles.items()),
        _flow(seen),
        *([] if pace.remaining_s is None else [f"ETA {duration(pace.remaining_s)}"]),
        _verdict(pace),
    ]
    return " | ".join(parts)


def _progress(seen: Status, pace: Pace) -> Table:
    parts = []
    if pace.loss is not None:
        parts.append(f"loss {pace.loss:.4g}")
    if pace.step_s is not None:
        parts.append(f"{pace.step_s:.3g} s a step")
    if pace.remaining_s is not None:
        parts.append(f"ETA {duration(pace.remaining_s)}")
    row = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(seen.max_steps, 1), completed=seen.step, width=30)
    row.add_row(f"step {seen.step}/{seen.max_steps}", bar, "  ".join(parts))
    return row


def _roles(seen: Status, pace: Pace) -> Table:
    table = Table(box=None, pad_edge=False)
    for column, is_number in (("role", False), ("serve", True), ("replicas", False), ("tok/s", True), ("busy", True)):
        table.add_column(column, justify="right" if is_number else "left")
    teachers = {name if name == "teacher" else f"teacher {name}": role for name, role in seen.teachers.items()}
    are_several = len(teachers) > 1  # they are measured together
    rows: list[tuple[str, RoleStatus | None, str | None]] = [
        ("samplers", seen.samplers, "sampler"),
        *([("teachers", None, "teacher")] if are_several else []),
        *((name, role, None if are_several else "teacher") for name, role in teachers.items()),
        ("learner", None, "learner"),
    ]
    for name, role, key in rows:
        replicas = ("", "") if role is None else (f"{role.num_serving}/{role.target}", _states(role))
        table.add_row(name, *replicas, *(("", "") if key is None else _rates(key, seen, pace)))
    for name, role, _ in rows:
        for group in () if role is None else alike(role.slots):
            if group.problem:
                table.add_row(f"  {name} {group.name}", "", Text(group.problem, style="red"), "", "")
    return table


def _rates(key: str, seen: Status, pace: Pace) -> tuple[str, Text]:
    rate, busy = seen.tokens_per_s.get(key), pace.busy.get(key)
    style = "bold yellow" if key == pace.bottleneck else ""
    return "" if rate is None else f"{rate:.0f}", Text("" if busy is None else f"{busy:.0%}", style=style)


def _states(role: RoleStatus) -> Text:
    """`3 healthy, 1 restarting`."""
    text = Text()
    for state, number in sorted(Counter(slot.state for slot in role.slots).items()):
        text.append(", " if text else "")
        text.append(f"{number} {state}", style=_COLOURS.get(state, "red"))
    return text


def _flow(seen: Status) -> str:
    return f"queue {seen.queue_depth} | staleness {seen.staleness}/{seen.max_staleness}"


def _verdict(pace: Pace) -> str:
    role = pace.bottleneck
    return "bottleneck: not known yet" if role is None else f"bottleneck: {role} ({pace.busy[role]:.0%} of a step)"
