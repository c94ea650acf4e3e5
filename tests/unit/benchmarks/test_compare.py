"""Kept ratios against those of today, on made-up results and scripts."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"
KEPT = {
    "speed": {"ours": 8.0, "theirs": 2.0},
    "share": 0.5,
    "off_by": 0.0,
    "cases": [{"kind": "a", "of": 0.1}, {"kind": "b", "of": 0.9}],
}
TABLE = """
fast:
  run: [--rounds, 1]
  ratios:
    - {of: [speed, ours], over: [speed, theirs], tolerance: 0.25}
    - {of: [share], better: lower, tolerance: 0.1}
    - {of: [cases, {kind: b}, of], tolerance: 0}
    - {of: [off_by], at_most: 0.01}
    - {of: [cases, 1, of], at_least: 0.85}
slow:
  run: null
  why: it takes hours
  ratios: [{of: [cases, 0, of], tolerance: 0.5}]
"""


@pytest.fixture(scope="module")
def compare(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("compare")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of benchmarks: two kept results, and a table."""
    (tmp_path / "ratios.yaml").write_text(TABLE)
    for name in ("fast", "slow"):
        (tmp_path / f"{name}.json").write_text(json.dumps(KEPT))
    return tmp_path


def measured(folder: Path, **now: Any) -> list[str]:
    """Arguments that compare with this result of `fast`."""
    (folder / "measured").mkdir(exist_ok=True)
    (folder / "measured" / "fast.json").write_text(json.dumps({**KEPT, **now}))
    return ["--measured", str(folder / "measured")]


def rows(said: str) -> dict[str, str]:
    """The verdicts by ratio."""
    cells = [re.split(" {2,}", row) for row in said.split("\n\n")[0].splitlines()[1:]]
    return {row[0].removeprefix("fast: "): row[-1] for row in cells}


def test_the_same_and_better_ratios_pass(compare: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(measured(folder), folder) == 0
    assert set(rows(capsys.readouterr().out).values()) == {"ok"}
    better = {"speed": {"ours": 9.0, "theirs": 0.1}, "share": 0.1, "cases": [{}, {"kind": "b", "of": 1.0}]}
    assert compare.main(measured(folder, **better), folder) == 0
    assert set(rows(capsys.readouterr().out).values()) == {"ok"}


@pytest.mark.parametrize(
    ("now", "passes"),
    [
        ({"speed": {"ours": 3.0, "theirs": 1.0}}, True),  # 4 less a quarter; times alone have halved
        ({"speed": {"ours": 2.99, "theirs": 1.0}}, False),
        ({"share": 0.55}, True),
        ({"share": 0.551}, False),
        ({"cases": [{}, {"kind": "b", "of": 0.8999}]}, False),
        ({"off_by": 0.01}, True),  # a bar holds whatever is kept: here 0
        ({"off_by": 0.011}, False),
        ({"cases": [{"kind": "b", "of": 0.9}, {"kind": "a", "of": 0.85}]}, True),
        ({"cases": [{"kind": "b", "of": 0.9}, {"kind": "a", "of": 0.84}]}, False),
        ({"speed": {"ours": 8.0, "theirs": 0}}, False),
        ({"speed": {"ours": 8.0}}, False),
        ({"share": "much"}, False),
        ({"cases": []}, False),
    ],
)
def test_a_ratio_is_worse_beyond_its_tolerance_or_where_it_is_none(
    compare: ModuleType, folder: Path, now: dict[str, Any], passes: bool
) -> None:
    assert compare.main(measured(folder, **now), folder) == (0 if passes else 1)


def test_what_is_said(compare: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare.main(measured(folder, share=0.9), folder)
    assert capsys.readouterr().out.splitlines() == [
        "ratio                            kept  now  tolerance  verdict",
        "fast: speed.ours : speed.theirs     4    4       -25%  ok",
        "fast: share                       0.5  0.9       +10%  WORSE",
        "fast: cases.b.of                  0.9  0.9        -0%  ok",
        "fast: off_by                        0    0    <= 0.01  ok",
        "fast: cases.1.of                  0.9  0.9    >= 0.85  ok",
        "",
        "not measured anew (--measured FOLDER compares new results of them):",
        "  slow  it takes hours",
        "",
        "1 of 5 ratios are worse or were not measured: fast: share",
    ]


def write_script(folder: Path, *results: dict[str, Any] | None) -> None:
    """Writes one result after the other, each time it is run; None: it fails."""
    (folder / "fast.py").write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        f"count = Path({str(folder / 'count')!r})\n"
        "number = int(count.read_text()) if count.exists() else 0\n"
        "count.write_text(str(number + 1))\n"
        f"result = json.loads({json.dumps(json.dumps(results))})[number]\n"
        "assert sys.argv[1:] == ['--rounds', '1']\n"
        "if result is None: sys.exit('it broke')\n"
        "Path(__file__).with_suffix('.json').write_text(json.dumps(result))\n"
    )


def tries(folder: Path) -> int:
    return int((folder / "count").read_text())


def test_scripts_are_run_in_a_copy_and_what_seems_worse_again(
    compare: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First one ratio is bad, then another: the machine was busy."""
    write_script(folder, {**KEPT, "share": 0.9}, {**KEPT, "share": 0.52, "off_by": 0.2}, KEPT)
    assert compare.main([], folder) == 0
    assert json.loads((folder / "fast.json").read_text()) == KEPT
    assert tries(folder) == 3
    said = capsys.readouterr().out
    assert set(rows(said).values()) == {"ok, 3 tries"}
    assert re.search(r"fast: share +0\.5 +0\.52 ", said)


def test_what_passes_is_run_once(compare: ModuleType, folder: Path) -> None:
    write_script(folder, KEPT)
    assert compare.main([], folder) == 0
    assert tries(folder) == 1


@pytest.mark.parametrize(
    ("shares", "counts"), [((0.9, 0.8, 0.85), "0.85"), ((0.9, 0.5, 0.8), "0.8"), ((0.9, None, 0.5), "0.9")]
)
def test_the_median_of_three_tries_counts(
    compare: ModuleType,
    folder: Path,
    shares: tuple[float | None, ...],
    counts: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One good moment excuses nothing, and a script that fails is worse than any result."""
    write_script(folder, *(None if share is None else {**KEPT, "share": share} for share in shares))
    assert compare.main(["fast"], folder) == 1
    assert tries(folder) == 3
    said = capsys.readouterr().out
    assert rows(said)["share"] == "WORSE, 3 tries"
    assert re.search(rf"fast: share +0\.5 +{counts} ", said)


def test_what_was_kept_by_the_same_arguments_is_compared_with(
    compare: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's result has a share of 0.5; what the fast arguments give was 0.8."""
    write_script(folder, *[{**KEPT, "share": share} for share in (0.8, 0.85, 0.9, 0.9, 0.9)])
    assert compare.main(["--keep"], folder) == 0
    assert json.loads((folder / "fast.json").read_text()) == KEPT
    assert compare.main([], folder) == 0
    assert re.search(r"fast: share +0\.8 +0\.85 ", capsys.readouterr().out)
    assert compare.main([], folder) == 1
    capsys.readouterr()
    assert compare.main(measured(folder), folder) == 0
    assert re.search(r"fast: share +0\.5 +0\.5 ", capsys.readouterr().out)


def test_nothing_is_kept_of_a_script_that_fails_or_lacks_a_ratio(
    compare: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_script(folder, KEPT, None, {"share": 0.5})
    assert compare.main(["--keep"], folder) == 0
    for _ in range(2):
        assert compare.main(["--keep"], folder) == 1
        assert "nothing to compare with was measured of fast" in capsys.readouterr().err
        assert json.loads((folder / "gate" / "fast.json").read_text()) == KEPT


def test_a_script_that_fails_each_time_fails_and_says_why(
    compare: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_script(folder, None, None, None)
    assert compare.main([], folder) == 1
    said = capsys.readouterr()
    assert "it broke" in said.err
    assert set(rows(said.out).values()) == {"not measured, 3 tries"}


def test_the_cpu_clock_leaves_out_what_a_script_waits_for(compare: ModuleType, folder: Path) -> None:
    """It also has one thread, its own arguments, and the modules beside it."""
    (folder / "ratios.yaml").write_text(
        "fast: {run: [--rounds, 1], clock: cpu, ratios: [{of: [clock], at_least: 1}, {of: [is_alone], at_least: 1}]}"
    )
    (folder / "fast.json").write_text(json.dumps({"clock": 1, "is_alone": 1}))
    (folder / "beside.py").write_text("VALUE = ['--rounds', '1']\n")
    (folder / "fast.py").write_text(
        "import json, os, sys, time\n"
        "from pathlib import Path\n"
        "from beside import VALUE\n"
        "assert sys.argv[1:] == VALUE\n"
        "result = {'clock': int(time.perf_counter is time.process_time),\n"
        "          'is_alone': int(os.environ['OMP_NUM_THREADS'] == '1')}\n"
        "Path(__file__).with_suffix('.json').write_text(json.dumps(result))\n"
    )
    assert compare.main(["fast"], folder) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fastest"], "no benchmark is called fastest; there are fast, slow"),
        (["slow"], "slow (it takes hours)"),
        (["--measured", "nowhere"], "nowhere is no folder"),
    ],
)
def test_wrong_usage(
    compare: ModuleType, folder: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(arguments, folder) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "table",
    [
        "fast: [",
        "fast: {run: []}",
        "fast: {run: [], ratios: [{of: [share], tolerance: 0.1, beter: lower}]}",
        "fast: {run: [], ratios: [{of: [share], tolerance: 0.1, better: less}]}",
        "fast: {run: [], ratios: [{of: [share], tolerance: -1}]}",
        "fast: {run: [], ratios: [{of: [share], tolerance: 0.1, at_most: 1}]}",
        "fast: {run: [], ratios: [{of: [share], at_most: 1, better: higher}]}",
        "fast: {run: [], ratios: [{of: [share]}]}",
        "fast: {run: [], clock: sun, ratios: []}",
        "fast: {run: [], rations: [], ratios: []}",
        "fast: {run: [], why: it is slow, ratios: []}",
        "fast: {run: null, ratios: []}",  # and why not?
        "fast: {run: [], ratios: [{of: [shares], tolerance: 0.1}]}",  # not in what is kept
        "other: {run: [], ratios: [{of: [share], tolerance: 0.1}]}",  # nothing is kept
    ],
)
def test_a_wrong_table_is_wrong_usage(compare: ModuleType, folder: Path, table: str) -> None:
    (folder / "ratios.yaml").write_text(table)
    assert compare.main([], folder) == 2


def test_the_table_of_this_repository_fits_what_is_kept(compare: ModuleType) -> None:
    benchmarks = compare.read_table(FOLDER / "ratios.yaml")
    for benchmark in benchmarks:
        kept = compare.kept_values(benchmark, compare.kept_file(benchmark, FOLDER, of_pages=False))
        failed = [
            ratio.name
            for ratio, value in zip(benchmark.ratios, kept, strict=True)
            if value is not None and not ratio.allows(value, value)
        ]
        assert not failed
        assert benchmark.run is None or (FOLDER / f"{benchmark.name}.py").is_file()


def test_every_kept_result_is_in_the_table(compare: ModuleType) -> None:
    kept = {
        str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.json") if ".venv" not in path.parts
    }
    benchmarks = compare.read_table(FOLDER / "ratios.yaml")
    gate = {name for name in kept if name.startswith("gate/")}
    assert kept - gate == {benchmark.name for benchmark in benchmarks}
    assert gate <= {f"gate/{benchmark.name}" for benchmark in benchmarks if benchmark.run is not None}
