"""Fail where a ratio that is kept here has become worse: measures the fast benchmarks anew and compares.

    .venv/bin/python benchmarks/compare.py [NAME ...] [--jobs N] [--measured FOLDER | --keep]      # or: make compare

The ratios, whether more or less of each is better, and how far it may be off are in benchmarks/ratios.yaml. Times are
never compared: those of two days, or of two machines, say nothing about the code. A script whose ratio seems worse is
run twice more, and the median counts: one bad moment of the machine fails nothing, one good moment excuses nothing.

The scripts run in a copy of this folder, so the kept files stay as they are. They run with fewer rounds and smaller
cases than those whose results the pages show, some by another clock: `--keep` writes what they say so to
benchmarks/gate, and where a script has a result there, it is that one which is compared with. `--measured` takes the
JSON files of a folder instead of running anything, and compares with those of the pages; without names it then compares
all that are there, slow ones too.

Ends with 1 where a ratio is worse than it may be, or could not be measured; with 2 for wrong usage.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from counts import positive
from kept_ratios import Benchmark, Ratio, UsageError, kept_values, read_table

from gkd_dist.process import actor_environment

HERE = Path(__file__).parent
TRIES = 3
TIMEOUT_S = 3600.0
"""Of one script: on a free machine each takes less than a minute."""


@dataclass(frozen=True)
class Verdict:
    """Of one ratio."""

    benchmark: str
    ratio: Ratio
    kept: float
    now: float | None
    """None: it could not be measured."""
    tries: int = 1

    @property
    def passed(self) -> bool:
        return self.now is not None and self.ratio.allows(self.kept, self.now)

    @property
    def name(self) -> str:
        return f"{self.benchmark}: {self.ratio.name}"

    @property
    def row(self) -> tuple[str, ...]:
        now = "-" if self.now is None else f"{self.now:.4g}"
        word = "not measured" if self.now is None else "ok" if self.passed else "WORSE"
        if self.tries > 1:
            word += f", {self.tries} tries"
        return self.name, f"{self.kept:.4g}", now, self.ratio.limit, word


def median(tries: Sequence[Verdict]) -> Verdict:
    """Of an odd number of tries at one ratio; where it was not measured it is worse than all others."""

    def goodness(verdict: Verdict) -> float:
        if verdict.now is None:
            return -math.inf
        return verdict.now if verdict.ratio.better == "higher" else -verdict.now

    return replace(sorted(tries, key=goodness)[len(tries) // 2], tries=len(tries))


def main(arguments: Sequence[str] | None = None, folder: Path = HERE) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to compare; default: all fast ones")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--measured", type=Path, metavar="FOLDER", help="compare these JSON files instead")
    either.add_argument("--keep", action="store_true", help="measure what is compared with from now on")
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="scripts that run at once; 1 is the most exact"
    )
    options = parser.parse_args(arguments)
    try:
        benchmarks = read_table(folder / "ratios.yaml")
        wanted = chosen(benchmarks, options.names, options.measured)
        if options.keep:
            return keep(wanted, folder)
        of_pages = options.measured is not None
        kept = {each.name: kept_values(each, kept_file(each, folder, of_pages)) for each in wanted}
    except UsageError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2

    def compared(benchmark: Benchmark) -> list[Verdict]:
        if options.measured is not None:
            return judge(benchmark, kept[benchmark.name], document(options.measured, benchmark.name))
        return measured(benchmark, kept[benchmark.name], folder)

    with ThreadPoolExecutor(options.jobs) as pool:
        verdicts = [verdict for some in pool.map(compared, wanted) for verdict in some]
    print(table([("ratio", "kept", "now", "tolerance", "verdict"), *(verdict.row for verdict in verdicts)]))
    if left := [] if options.names else [each for each in benchmarks if each not in wanted]:
        print("\nnot measured anew (--measured FOLDER compares new results of them):")
        print(table([(f"  {each.name}", each.why) for each in left]))
    print(f"\n{conclusion(verdicts)}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def chosen(benchmarks: Sequence[Benchmark], names: Sequence[str], measured: Path | None) -> list[Benchmark]:
    """Those that are named; else all that can be measured now."""
    if unknown := set(names) - {each.name for each in benchmarks}:
        known = ", ".join(each.name for each in benchmarks)
        raise UsageError(f"no benchmark is called {', '.join(sorted(unknown))}; there are {known}")
    if measured is not None and not measured.is_dir():
        raise UsageError(f"{measured} is no folder")
    if names:
        slow = [f"{each.name} ({each.why})" for each in benchmarks if each.name in names and each.run is None]
        if slow and measured is None:
            raise UsageError(
                f"not run for this: {', '.join(slow)}; run the script, and name its folder with --measured"
            )
        return [each for each in benchmarks if each.name in names]
    if measured is not None:
        found = [each for each in benchmarks if (measured / f"{each.name}.json").is_file()]
        if not found:
            raise UsageError(f"{measured} has no result of any benchmark of the table")
        return found
    return [each for each in benchmarks if each.run is not None]


def kept_file(benchmark: Benchmark, folder: Path, of_pages: bool) -> Path:
    """What the script said when it was run as it is run here, if that was kept; else, or of the pages, all of it."""
    gate = folder / "gate" / f"{benchmark.name}.json"
    return gate if gate.is_file() and not of_pages else folder / f"{benchmark.name}.json"


def keep(benchmarks: Sequence[Benchmark], folder: Path) -> int:
    """1 where a script left nothing that could be compared with; what was kept of it stays."""
    failed = []
    for each in benchmarks:
        content = run(each, folder)
        if any(verdict.now is None for verdict in judge(each, [0.0] * len(each.ratios), content)):
            failed.append(each.name)
            continue
        file = folder / "gate" / f"{each.name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"written to {file}", flush=True)
    if failed:
        print(f"compare: nothing to compare with was measured of {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def document(folder: Path, name: str) -> Any:
    """None where there is none."""
    try:
        return json.loads((folder / f"{name}.json").read_bytes())
    except (OSError, ValueError) as error:
        print(f"compare: {name}: {error}", file=sys.stderr)
        return None


def measured(benchmark: Benchmark, kept: Sequence[float], folder: Path) -> list[Verdict]:
    """What the script says now; where any of that is worse, the median of several tries."""
    tries: list[list[Verdict]] = []
    while not tries or (len(tries) < TRIES and not all(verdict.passed for verdict in tries[0])):
        verdicts = judge(benchmark, kept, run(benchmark, folder))
        print("\n".join("    " + "  ".join(each.row) for each in verdicts), file=sys.stderr, flush=True)
        tries.append(verdicts)
    return [median(of_one) for of_one in zip(*tries, strict=True)]


def run(benchmark: Benchmark, folder: Path) -> Any:
    """The result of the script, run in a copy of `folder`; None where it wrote none."""
    with tempfile.TemporaryDirectory() as root:
        copy = Path(root, "benchmarks")
        ignored = shutil.ignore_patterns("*.json", "__pycache__", ".venv")
        shutil.copytree(folder, copy, ignore=ignored)
        copy.with_name("gkd_dist").symlink_to(HERE.parent / "gkd_dist")  # for scripts that read files of the package
        command = [str(copy / f"{benchmark.name}.py"), *(benchmark.run or [])]
        print(f"compare: {' '.join([benchmark.name, *command[1:]])} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, *([str(HERE / "cpu_clock.py")] if benchmark.by_cpu_clock else []), *command],
                env=environment(benchmark), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"compare: {benchmark.name} takes longer than {TIMEOUT_S:.0f} s", file=sys.stderr)
            return None
        print(f"compare: {benchmark.name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        found = document(copy, benchmark.name)
        if found is None:
            print(done.stdout[-2000:], file=sys.stderr)
        return found


def environment(benchmark: Benchmark) -> dict[str, str]:
    """That of a run's actors, on one thread where CPU time counts; the modules beside this folder come first."""
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": "1"} if benchmark.by_cpu_clock else {}
    return os.environ | actor_environment() | threads | {"PYTHONPATH": path}


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


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side; the first and the last one to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(cell.ljust(width) if column in (0, last) else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    )  # fmt: skip


def conclusion(verdicts: Sequence[Verdict]) -> str:
    failed = [verdict.name for verdict in verdicts if not verdict.passed]
    if failed:
        return f"{len(failed)} of {len(verdicts)} ratios are worse or were not measured: {'; '.join(failed)}"
    return f"all {len(verdicts)} ratios hold"


if __name__ == "__main__":
    sys.exit(main())
