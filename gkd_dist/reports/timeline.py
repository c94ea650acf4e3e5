"""When which replica did what, and what happened to the run: lanes and marks over wall time."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

from gkd_dist.reports.numbers import duration
from gkd_dist.reports.run_view import RunView
from gkd_dist.runs.events import RunEvent

MAX_ROWS = 400
"""Events listed as text; the newest, should there be more."""
_PIXELS = 1000
"""About the width of a lane: what is closer than one of them cannot be told apart."""
_MARK_PIXELS = 5
"""Width of a mark and of a gap beside it: closer ones would be one block."""
_DECIMALS = 3
"""Of seconds: what events say."""
_OF_THE_PAGE = frozenset({"rows", "num_left_out", "num_merged"})


@dataclass(frozen=True)
class Span:
    """A state of one slot; times in seconds since the run began."""

    start: float
    end: float
    state: str
    label: str


@dataclass(frozen=True)
class Lane:
    name: str
    spans: list[Span]


@dataclass(frozen=True)
class Mark:
    """One moment."""

    at: float
    kind: str
    label: str


@dataclass(frozen=True)
class Timeline:
    """Of one run."""

    id: str
    end: float
    """Seconds since the run began."""
    lanes: list[Lane] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    """(when, what, why) as text."""
    num_left_out: int = 0
    num_merged: int = 0
    """Spans and marks that are drawn as one with a neighbour: they would lie on it."""

    def plain(self) -> dict[str, Any]:
        """For JSON: the lanes and marks alone."""
        return {key: _rounded(value) for key, value in asdict(self).items() if key not in _OF_THE_PAGE}


def timeline(run: RunView, index: int, now: datetime) -> Timeline | None:
    """None where nothing is known of any time."""
    spans = run.spans(now)
    if not spans and not run.events:
        return None
    times = [moment.timestamp() for span in spans for moment in span]
    begin = min([*times, *(event.seconds for event in run.events)])
    ends = {attempt.number: span[1].timestamp() for attempt, span in zip(run.attempts, spans, strict=True)}
    end = max([*times, *(event.seconds for event in run.events)])
    marks = [Mark(event.seconds - begin, event.kind, describe(event)) for event in run.events if _is_mark(event)]
    for attempt, (start, stop) in zip(run.attempts, spans, strict=True):
        marks.append(Mark(start.timestamp() - begin, "attempt", f"attempt {attempt.number} begins"))
        if not (run.is_running and attempt is run.attempts[-1]):
            how = attempt.how or "killed"
            marks.append(Mark(stop.timestamp() - begin, "attempt", f"attempt {attempt.number} ends: {how}"))
    told = sorted(
        [(mark.at, mark.label, "") for mark in marks if mark.kind == "attempt"]
        + [(event.seconds - begin, describe(event), event.detail) for event in run.events],
        key=lambda row: row[0],
    )
    pixel = max(end - begin, 1e-3) / _PIXELS
    lanes = _lanes(run.events, begin, ends, end)
    drawn = [Lane(lane.name, _merged_spans(lane.spans, pixel)) for lane in lanes]
    drawn_marks = _merged_marks(sorted(marks, key=lambda mark: mark.at), _MARK_PIXELS * pixel)
    num_spans, num_drawn = (sum(len(lane.spans) for lane in each) for each in (lanes, drawn))
    return Timeline(
        id=f"timeline-{index}",
        end=max(end - begin, 1e-3),
        lanes=drawn,
        marks=drawn_marks,
        num_merged=num_spans - num_drawn + len(marks) - len(drawn_marks),
        rows=[(duration(at), what, why) for at, what, why in told[-MAX_ROWS:]],
        num_left_out=max(0, len(told) - MAX_ROWS),
    )


def _rounded(value: Any) -> Any:
    """With every float as short as events are exact; a page of many events is half as large then."""
    match value:
        case float():
            return round(value, _DECIMALS)
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case list():
            return [_rounded(each) for each in value]
    return value


def _merged_spans(spans: list[Span], pixel: float) -> list[Span]:
    """Those shorter than a pixel that begin in the same one are one span, with the state that lasted longest.

    Args:
        pixel: seconds.
    """
    merged = []
    for (_, is_short), group in groupby(spans, key=lambda span: (span.start // pixel, span.end - span.start < pixel)):
        found = list(group)
        if is_short and len(found) > 1:
            longest = max(found, key=lambda span: span.end - span.start)
            found = [Span(found[0].start, found[-1].end, longest.state, f"{len(found)} changes; {longest.label}")]
        merged += found
    return merged


def _merged_marks(marks: list[Mark], width: float) -> list[Mark]:
    """One of a kind in each `width` seconds, which says how many there are."""
    groups: dict[tuple[float, str], list[Mark]] = defaultdict(list)
    for mark in marks:
        groups[mark.at // width, mark.kind].append(mark)
    return [
        first if not others else Mark(first.at, first.kind, f"{first.label}, and {len(others)} more")
        for first, *others in groups.values()
    ]


def describe(event: RunEvent) -> str:
    """An event in words."""
    match event.kind:
        case "stage":
            return f"{event.state} begins"
        case "replica":
            reason = event.reason.replace("_", " ")
            return f"{event.role} {event.slot}: {event.former} \N{RIGHTWARDS ARROW} {event.state} ({reason})"
        case "scale":
            by = {"request": "asked for", "pressure": "by queue pressure"}.get(event.reason, event.reason)
            return f"{event.role}: {event.former} \N{RIGHTWARDS ARROW} {event.state} replicas, {by}"
        case "learner":
            return "another learner takes the place of one that died"
        case "checkpoint":
            return "a checkpoint failed" if event.step is None else f"checkpoint of step {event.step} written"


def _is_mark(event: RunEvent) -> bool:
    """Lanes show replicas, but for their deaths, which must not be overlooked."""
    return event.kind != "replica" or (event.state in ("dead", "retired") and event.reason != "scaled")


def _lanes(events: list[RunEvent], begin: float, ends: dict[int, float], end: float) -> list[Lane]:
    by_slot: dict[tuple[str, int], list[RunEvent]] = defaultdict(list)
    for event in events:
        if event.kind == "replica" and event.slot is not None:
            by_slot[event.role, event.slot].append(event)
    lanes = []
    for (role, slot), changes in sorted(by_slot.items()):
        spans = []
        for change, following in zip(changes, [*changes[1:], None], strict=True):
            until = ends.get(change.attempt, end)
            if following is not None and following.attempt == change.attempt:
                until = following.seconds
            is_gone = change.state == "dead" and change.reason == "scaled"
            if until > change.seconds and not is_gone:
                span = Span(change.seconds - begin, until - begin, change.state, describe(change))
                spans.append(span)
        lanes.append(Lane(f"{role} {slot}", spans))
    return lanes
