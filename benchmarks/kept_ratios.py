"""The table of ratios that are watched (benchmarks/ratios.yaml), and when one has become worse."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

Segment = str | int | Mapping[str, Any]
Route = tuple[Segment, ...]


class UsageError(Exception):
    """Something that the caller can mend."""


@dataclass(frozen=True)
class Ratio:
    """One number of a result file."""

    of: Route
    over: Route | None = None
    """The number it is divided by; None: it is a ratio already."""
    better: Literal["higher", "lower"] = "higher"
    tolerance: float | None = None
    """Share of the kept value by which it may be worse."""
    bar: float | None = None
    """What it may be at worst, whatever is kept; one of both is None."""

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> "Ratio":
        """
        Raises:
            ValueError: it has not one of tolerance, at_most and at_least, or what it has is out of bounds.
            TypeError: it has something else besides.
        """
        given = dict(entry)
        over, tolerance = given.pop("over", None), given.pop("tolerance", None)
        most, least, better = given.pop("at_most", None), given.pop("at_least", None), given.pop("better", None)
        made = cls(
            of=tuple(given.pop("of")),
            over=None if over is None else tuple(over),
            better=better or ("lower" if most is not None else "higher"),
            tolerance=tolerance,
            bar=least if most is None else most,
        )
        if given:
            raise TypeError(f"{made.name}: what is {', '.join(given)}?")
        if sum(each is not None for each in (tolerance, most, least)) != 1:
            raise ValueError(f"{made.name}: give one of tolerance, at_most and at_least")
        if better is not None and (tolerance is None or better not in ("higher", "lower")):
            raise ValueError(f"{made.name}: better is higher or lower, and goes with a tolerance")
        if tolerance is not None and not 0 <= float(tolerance) < math.inf:
            raise ValueError(f"{made.name}: tolerance is a share of at least 0")
        return made

    @property
    def name(self) -> str:
        return words(self.of) if self.over is None else f"{words(self.of)} : {words(self.over)}"

    @property
    def limit(self) -> str:
        """How far it may be off, for a table."""
        if self.bar is not None:
            return f"{'>=' if self.better == 'higher' else '<='} {self.bar:g}"
        return f"{'-' if self.better == 'higher' else '+'}{self.tolerance:.0%}"

    def read(self, document: Any) -> float:
        """
        Raises:
            ValueError: it is not in the document, or no finite number.
        """
        value = number_at(document, self.of)
        if self.over is not None:
            divisor = number_at(document, self.over)
            value = value / divisor if divisor else math.nan
        if not math.isfinite(value):
            raise ValueError(f"{self.name} is not finite")
        return value

    def allows(self, kept: float, now: float) -> bool:
        """Whether `now` is not worse than it may be."""
        room = abs(kept) * (self.tolerance or 0.0)
        if self.better == "higher":
            return now >= (kept - room if self.bar is None else self.bar)
        return now <= (kept + room if self.bar is None else self.bar)


@dataclass(frozen=True)
class Benchmark:
    """One script and the ratios of its result that are watched."""

    name: str
    """Of its script and result below `benchmarks`, without suffix."""
    run: list[str] | None
    """Its arguments; None: it is not measured for this."""
    ratios: list[Ratio]
    by_cpu_clock: bool = False
    """Whether its stop-watch is the CPU time of its process, on one thread."""
    why: str = ""
    """Why it is not measured."""

    @classmethod
    def of_entry(cls, name: str, entry: Mapping[str, Any]) -> "Benchmark":
        """
        Raises:
            ValueError: it gives arguments and a reason not to run it, or neither, or an unknown clock.
            KeyError, TypeError: it lacks something, or has something else.
        """
        if unknown := set(entry) - {"run", "ratios", "clock", "why"}:
            raise TypeError(f"{name}: what is {', '.join(sorted(unknown))}?")
        run, why = entry["run"], entry.get("why", "")
        if (run is None) != bool(why):
            raise ValueError(f"{name}: it is either run, or says why not")
        if entry.get("clock", "wall") not in ("wall", "cpu"):
            raise ValueError(f"{name}: clock is wall or cpu")
        ratios = [Ratio.of_entry(each) for each in entry["ratios"]]
        return cls(name, None if run is None else [*map(str, run)], ratios, entry.get("clock") == "cpu", why)


def read_table(file: Path) -> list[Benchmark]:
    """
    Raises:
        UsageError: it is not as `benchmarks/ratios.yaml` says that it should be.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return [Benchmark.of_entry(name, entry) for name, entry in content.items()]
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file}: {type(error).__name__}: {error}") from error


def kept_values(benchmark: Benchmark, file: Path) -> list[float]:
    """
    Raises:
        UsageError: the kept file does not have what the table asks for.
    """
    try:
        content = json.loads(file.read_bytes())
        return [each.read(content) for each in benchmark.ratios]
    except (OSError, ValueError) as error:
        raise UsageError(f"{file.name}, which is kept: {error}") from error


def number_at(content: Any, path: Route) -> float:
    """The number at the end of `path`: keys of objects, positions in lists, or what an entry of a list must have.

    Raises:
        ValueError: there is none.
    """
    found = content
    for segment in path:
        try:
            if isinstance(segment, Mapping):
                found = next(each for each in found if all(each.get(key) == value for key, value in segment.items()))
            else:
                found = found[segment]
        except (AttributeError, KeyError, IndexError, TypeError, StopIteration):
            raise ValueError(f"there is no {words(path)}") from None
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"{words(path)} is no number")
    return float(found)


def words(path: Sequence[Segment]) -> str:
    """`cases.log_normal.packed_over.fixed`, `time.jsd 512x32000.ours`."""
    return ".".join(
        " ".join(str(value) for value in each.values()) if isinstance(each, Mapping) else str(each) for each in path
    )
