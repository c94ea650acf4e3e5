"""Where the time of a step goes: a row per role, its parts, and what they are made of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gkd_dist.reports.numbers import number, text
from gkd_dist.reports.run_view import Record, RunView

WARM_UP_STEPS = 2
"""The first ones of every attempt are left out, where others remain."""
_FEWEST = 3
"""Steps of a kind that are drawn by themselves."""
_TRANSPORT = "transport"


@dataclass(frozen=True)
class Part:
    """Something a role does."""

    name: str
    seconds: float
    parts: list["Part"] = field(default_factory=list)
    """What is known of it; together at most as long."""


@dataclass(frozen=True)
class Row:
    """One role."""

    name: str
    colour: int
    """Which of the page's; that of the role in all charts."""
    parts: list[Part]
    idle_s: float


@dataclass(frozen=True)
class Breakdown:
    """Of the middle steps of one kind of a run."""

    id: str
    title: str
    step_s: float
    between_s: float
    """No part worked: the controller's own."""
    note: str
    rows: list[Row]

    @property
    def words(self) -> str:
        """All of it, for who does not see the picture."""
        rows = "; ".join(f"{row.name}: {_words([*row.parts, Part('idle', row.idle_s)])}" for row in self.rows)
        return f"{self.title}. {_seconds(self.step_s)}. {rows}."

    @property
    def table(self) -> list[tuple[str, str, str, str]]:
        """(role, part, seconds, share of the step)."""
        found = []
        for row in self.rows:
            for part in row.parts:
                found.append((row.name, part.name, part.seconds))
                found += [(row.name, f"{part.name}: {each.name}", each.seconds) for each in part.parts]
            found.append((row.name, "idle", row.idle_s))
        found.append(("nobody", "between the parts", self.between_s))
        return [(role, name, text(round(value, 4)), f"{value / self.step_s:.1%}") for role, name, value in found]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"words": self.words}


def breakdowns(run: RunView, index: int) -> list[Breakdown]:
    """One for each kind of step: of synchronous runs those in which the student writes, and those in which it does
    not. None where the records do not say enough."""
    steady = _steady([record for record in run.records if number(record.get("between_s")) is not None])
    kinds = {"a step": steady}
    if run.config.get("mode") != "async":
        writing = [record for record in steady if record.get("student_sequences")]
        reading = [record for record in steady if not record.get("student_sequences")]
        if min(len(writing), len(reading)) >= _FEWEST:
            kinds = {"a step in which the student writes": writing, "a step on fixed pairs": reading}
    return [
        _breakdown(f"step-{index}-{at}", f"Where {name} spends its time", _middle(records), len(records))
        for at, (name, records) in enumerate(kinds.items())
        if records
    ]


def _steady(records: Sequence[Record]) -> list[Record]:
    """Without the first ones of every attempt."""
    seen: Counter[Any] = Counter()
    kept = []
    for record in records:
        seen[record.get("attempt")] += 1
        if seen[record.get("attempt")] > WARM_UP_STEPS:
            kept.append(record)
    return kept or list(records)


def _middle(records: Sequence[Record]) -> list[Record]:
    """Half of them, those around the median step; all of a few."""
    ordered = sorted(records, key=lambda record: number(record.get("step_s")) or 0.0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut]


def _breakdown(id: str, title: str, records: Sequence[Record], num_steps: int) -> Breakdown:
    names = {name for record in records for name in record if name.endswith("_s")}
    mean = {name: sum(number(record.get(name)) or 0.0 for record in records) / len(records) for name in names}
    step_s = max(mean.get("step_s", 0.0), 1e-9)
    rows = [
        _row("sampler", 0, _of_replicas(_sampling(mean), mean.get("sampler_busy_s")), step_s),
        _row("teacher", 1, [*_of_replicas(_scoring(mean), mean.get("teacher_busy_s")), *_checking(mean)], step_s),
        _row("learner", 2, _learning(mean), step_s),
        _row("reward", 4, _parts(mean, {"judging": "judge_s"}), step_s),
        _row("controller", 3, _parts(mean, {"computing": "controller_s"}), step_s),
    ]
    return Breakdown(
        id=id,
        title=title,
        step_s=step_s,
        between_s=mean["between_s"],
        note=f"mean of the {len(records)} of {num_steps} steps that are nearest to the median",
        rows=[row for row in rows if row.parts],
    )


def _sampling(mean: Mapping[str, float]) -> list[Part]:
    inside = {
        "checking": "load_verify_s",
        "copying": "load_copy_s",
        "engine paused": "load_paused_s",
        _TRANSPORT: "load_transport_s",
    }
    return [*_answering("sampling", "sample", mean), *_parts(mean, {"loading weights": "load_s"}, inside)]


def _scoring(mean: Mapping[str, float]) -> list[Part]:
    return _answering("scoring", "score", mean)


def _checking(mean: Mapping[str, float]) -> list[Part]:
    return _parts(mean, {"golden sequences": "sentinel_s"})


def _learning(mean: Mapping[str, float]) -> list[Part]:
    inside = {
        "forward": "learn_forward_s",
        "loss and head": "learn_head_s",
        "backward": "learn_backward_s",
        "optimizer": "learn_optimizer_s",
        _TRANSPORT: "learn_transport_s",
    }
    others = {"packing weights": "pack_s", "copying its state": "snapshot_s", "saving": "save_s"}
    return [*_parts(mean, {"learning": "learn_s"}, inside), *_parts(mean, others)]


def _answering(name: str, call: str, mean: Mapping[str, float]) -> list[Part]:
    transport_s = mean.get(f"{call}_transport_s", 0.0)
    return [
        Part(part.name, part.seconds, [Part("engine", part.seconds - transport_s), Part(_TRANSPORT, transport_s)])
        if transport_s
        else part
        for part in _parts(mean, {name: f"{call}_s"})
    ]


def _parts(mean: Mapping[str, float], keys: Mapping[str, str], inside: Mapping[str, str] | None = None) -> list[Part]:
    """Those that took any time."""
    within = _parts(mean, inside) if inside else []
    return [Part(name, mean[key], within) for name, key in keys.items() if mean.get(key, 0.0) > 0]


def _of_replicas(parts: list[Part], busy_s: float | None) -> list[Part]:
    """As a replica had them on average: less than the role, where some were done before others, and in asynchronous
    runs, where a part may fall into another."""
    total_s = sum(part.seconds for part in parts)
    return parts if busy_s is None or busy_s >= total_s else [_scaled(part, busy_s / total_s) for part in parts]


def _scaled(part: Part, factor: float) -> Part:
    return Part(part.name, part.seconds * factor, [_scaled(each, factor) for each in part.parts])


def _row(name: str, colour: int, parts: list[Part], step_s: float) -> Row:
    return Row(name, colour, parts, max(0.0, step_s - sum(part.seconds for part in parts)))


def _words(parts: Sequence[Part]) -> str:
    return ", ".join(
        f"{part.name} {_seconds(part.seconds)}" + (f" (of it {_words(part.parts)})" if part.parts else "")
        for part in parts
    )


def _seconds(value: float) -> str:
    return f"{text(float(f'{value:.3g}'))} s"
