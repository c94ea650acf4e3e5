"""Fail where a ratio that is kept here has become worse: measures the fast benchmarks anew and compares.

    .venv/bin/python benchmarks/compare.py [NAME ...] [--measured FOLDER]      # or: make compare

The ratios, whether more or less of each is better, and how far it may be off are in benchmarks/ratios.yaml. Times are
never compared: those of two days, or of two machines, say nothing about the code. What seems worse is measured once
more, and the better of both counts: a machine that others use is only ever in the way.

The scripts run in a copy of this folder, so the kept files stay as they are. `--measured` takes the JSON files of a
folder instead of running anything; without names it then compares all that are there, slow ones too.

Ends with 1 where a ratio is worse than its tolerance allows, or could not be measured; with 2 for wrong usage.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

HERE = Path(__file__).parent
TIMEOUT_S = 300.0
"""Of one script."""
Segment = str | int | Mapping[str, Any]
Route = tuple[Segment, ...]


class UsageError(Exception):
    """Something that the caller can mend."""


@dataclass(frozen=True)
class Ratio:
    """One number of a result file."""

    of: Route
    tolerance: float
    """Share of the kept value by which it may be worse."""
    over: Route | None = None
    """The number it is divided by; None: it is a ratio already."""
    better: Literal["higher", "lower"] = "higher"

    @property
    def name(self) -> str:
        return words(self.of) if self.over is None else f"{words(self.of)} : {words(self.over)}"

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
        """Whether `now` is not worse than the tolerance lets it be."""
        room = abs(kept) * self.tolerance
        return now >= kept - room if self.better == "higher" else now <= kept + room

    def best(self, one: float | None, other: float | None) -> float | None:
        known = [each for each in (one, other) if each is not None]
        return (max if self.better == "higher" else min)(known, default=None)


@dataclass(frozen=True)
class Benchmark:
    """One script and the ratios of its result that are watched."""

    name: str
    run: list[str] | None
    """Its arguments; None: it takes too long to be run for this."""
    ratios: list[Ratio]


@dataclass(frozen=True)
class Verdict:
    """Of one ratio."""

    benchmark: str
    ratio: Ratio
    kept: float
    now: float | None
    """None: it could not be measured."""

    @property
    def passed(self) -> bool:
        return self.now is not None and self.ratio.allows(self.kept, self.now)

    @property
    def row(self) -> tuple[str, ...]:
        sign = "-" if self.ratio.better == "higher" else "+"
        now = "-" if self.now is None else f"{self.now:.4g}"
        word = "not measured" if self.now is None else "ok" if self.passed else "WORSE"
        name = f"{self.benchmark}: {self.ratio.name}"
        return name, f"{self.kept:.4g}", now, f"{sign}{self.ratio.tolerance:.0%}", word


def main(arguments: Sequence[str] | None = None, folder: Path = HERE) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to compare; default: all fast ones")
    parser.add_argument("--measured", type=Path, metavar="FOLDER", help="compare these JSON files instead")
    options = parser.parse_args(arguments)
    try:
        benchmarks = chosen(read_table(folder / "ratios.yaml"), options.names, options.measured)
        kept = {each.name: kept_values(each, folder) for each in benchmarks}
    except UsageError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    verdicts = []
    for benchmark in benchmarks:
        if options.measured is not None:
            verdicts += judge(benchmark, kept[benchmark.name], document(options.measured, benchmark.name))
        else:
            verdicts += measured(benchmark, kept[benchmark.name], folder)
    print(table(verdicts))
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def read_table(file: Path) -> list[Benchmark]:
    """
    Raises:
        UsageError: it is not as `benchmarks/ratios.yaml` says that it should be.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return [
            Benchmark(name, None if found["run"] is None else [*map(str, found["run"])], [*map(ratio, found["ratios"])])
            for name, found in content.items()
        ]
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file}: {type(error).__name__}: {error}") from error


def ratio(found: Mapping[str, Any]) -> Ratio:
    over = found.get("over")
    made = Ratio(**{**found, "of": tuple(found["of"]), "over": None if over is None else tuple(over)})
    if made.better not in ("higher", "lower") or not 0 <= float(made.tolerance) < math.inf:
        raise ValueError(f"{made.name}: better is higher or lower, tolerance a share of at least 0")
    return made


def chosen(benchmarks: Sequence[Benchmark], names: Sequence[str], measured: Path | None) -> list[Benchmark]:
    """Those that are named; else all that can be measured now."""
    if unknown := set(names) - {each.name for each in benchmarks}:
        known = ", ".join(each.name for each in benchmarks)
        raise UsageError(f"no benchmark is called {', '.join(sorted(unknown))}; there are {known}")
    if measured is not None and not measured.is_dir():
        raise UsageError(f"{measured} is no folder")
    if names:
        slow = [each.name for each in benchmarks if each.name in names and each.run is None]
        if slow and measured is None:
            raise UsageError(f"{', '.join(slow)} takes too long; run the script, and name its folder with --measured")
        return [each for each in benchmarks if each.name in names]
    if measured is not None:
        found = [each for each in benchmarks if (measured / f"{each.name}.json").is_file()]
        if not found:
            raise UsageError(f"{measured} has no result of any benchmark of the table")
        return found
    return [each for each in benchmarks if each.run is not None]


def kept_values(benchmark: Benchmark, folder: Path) -> list[float]:
    """
    Raises:
        UsageError: the kept file does not have what the table asks for.
    """
    try:
        content = json.loads((folder / f"{benchmark.name}.json").read_bytes())
        return [each.read(content) for each in benchmark.ratios]
    except (OSError, ValueError) as error:
        raise UsageError(f"{benchmark.name}.json, which is kept: {error}") from error


def document(folder: Path, name: str) -> Any:
    """None where there is none."""
    try:
        return json.loads((folder / f"{name}.json").read_bytes())
    except (OSError, ValueError) as error:
        print(f"compare: {name}: {error}", file=sys.stderr)
        return None


def measured(benchmark: Benchmark, kept: Sequence[float], folder: Path) -> list[Verdict]:
    """What the script says now, and, where that is worse, once more."""
    first = judge(benchmark, kept, run(benchmark, folder))
    if all(verdict.passed for verdict in first):
        return first
    second = judge(benchmark, kept, run(benchmark, folder))
    return [
        Verdict(one.benchmark, one.ratio, one.kept, one.ratio.best(one.now, other.now))
        for one, other in zip(first, second, strict=True)
    ]


def run(benchmark: Benchmark, folder: Path) -> Any:
    """The result of the script, run in a copy of `folder`; None where it wrote none."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.json", "__pycache__"), dirs_exist_ok=True)
        command = [sys.executable, str(Path(copy, f"{benchmark.name}.py")), *(benchmark.run or [])]
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        print(f"compare: {benchmark.name} {' '.join(command[2:])}".rstrip(), file=sys.stderr, flush=True)
        try:
            done = subprocess.run(
                command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"compare: {benchmark.name} takes longer than {TIMEOUT_S:.0f} s", file=sys.stderr)
            return None
        found = document(Path(copy), benchmark.name)
        if found is None:
            print(done.stdout[-2000:], file=sys.stderr)
        return found


def judge(benchmark: Benchmark, kept: Sequence[float], content: Any) -> list[Verdict]:
    """One verdict per ratio; `content` is a result, or None."""
    verdicts = []
    for each, before in zip(benchmark.ratios, kept, strict=True):
        try:
            now = each.read(content)
        except ValueError:
            now = None
        verdicts.append(Verdict(benchmark.name, each, before, now))
    return verdicts


def number_at(content: Any, path: Route) -> float:
    """The number at the end of `path`: keys of objects, positions in lists, or what an entry of a list must have.

    Raises:
        ValueError: there is none.
    """
    found = content
    for segment in path:
        try:
            if isinstance(segment, Mapping):
                found = next(each for each in found if all(each[key] == value for key, value in segment.items()))
            else:
                found = found[segment]
        except (KeyError, IndexError, TypeError, StopIteration):
            raise ValueError(f"there is no {words(path)}") from None
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"{words(path)} is no number")
    return float(found)


def words(path: Route) -> str:
    """`cases.log_normal.packed_over.fixed`, `time.jsd 512x32000.ours`."""
    return ".".join(
        " ".join(str(value) for value in each.values()) if isinstance(each, Mapping) else str(each) for each in path
    )


def table(verdicts: Sequence[Verdict]) -> str:
    rows = [("ratio", "kept", "now", "tolerance", "verdict"), *(verdict.row for verdict in verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column in (0, 4) else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
