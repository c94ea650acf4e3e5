"""Kept ratios against those of today, on made-up results and scripts."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"
KEPT = {
    "speed": {"ours": 8.0, "theirs": 2.0},
    "share": 0.5,
    "cases": [{"kind": "a", "of": 0.1}, {"kind": "b", "of": 0.9}],
}
TABLE = """
fast:
  run: [--rounds, 1]
  ratios:
    - {of: [speed, ours], over: [speed, theirs], tolerance: 0.25}
    - {of: [share], better: lower, tolerance: 0.1}
    - {of: [cases, {kind: b}, of], tolerance: 0}
slow:
  run: null
  ratios: [{of: [cases, 0, of], tolerance: 0.5}]
"""


@pytest.fixture(scope="module")
def compare() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("benchmarks_compare", FOLDER / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of benchmarks: two kept results, a table, and a script that writes what `now.json` beside it says."""
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
    return {row.split("  ")[0]: row.split()[-1] for row in said.splitlines()[1:]}


def test_the_same_and_better_ratios_pass(compare: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(measured(folder), folder) == 0
    better = {"speed": {"ours": 9.0, "theirs": 0.1}, "share": 0.1, "cases": [{"kind": "b", "of": 1.0}]}
    assert compare.main(measured(folder, **better), folder) == 0
    assert set(rows(capsys.readouterr().out).values()) >= {"ok"}


@pytest.mark.parametrize(
    ("now", "passes"),
    [
        ({"speed": {"ours": 3.0, "theirs": 1.0}}, True),  # 4 less a quarter; times alone have halved
        ({"speed": {"ours": 2.99, "theirs": 1.0}}, False),
        ({"share": 0.55}, True),
        ({"share": 0.551}, False),
        ({"cases": [{"kind": "b", "of": 0.8999}]}, False),
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


def test_the_table_names_each_ratio(compare: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare.main(measured(folder, share=0.9), folder)
    assert capsys.readouterr().out.splitlines() == [
        "ratio                            kept  now  tolerance  verdict",
        "fast: speed.ours : speed.theirs     4    4       -25%  ok",
        "fast: share                       0.5  0.9       +10%  WORSE",
        "fast: cases.b.of                  0.9  0.9        -0%  ok",
    ]


def script(folder: Path, *results: dict[str, Any] | None) -> None:
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


def test_scripts_are_run_in_a_copy_and_what_seems_worse_once_more(
    compare: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First one ratio is bad, then another: the machine was busy."""
    script(folder, {**KEPT, "share": 0.9}, {**KEPT, "cases": [{"kind": "b", "of": 0.2}]})
    assert compare.main([], folder) == 0
    assert json.loads((folder / "fast.json").read_text()) == KEPT
    assert (folder / "count").read_text() == "2"
    assert rows(capsys.readouterr().out) == {
        "fast: speed.ours : speed.theirs": "ok", "fast: share": "ok", "fast: cases.b.of": "ok",
    }  # fmt: skip


def test_what_is_worse_twice_fails(compare: ModuleType, folder: Path) -> None:
    script(folder, {**KEPT, "share": 0.9}, {**KEPT, "share": 0.8})
    assert compare.main(["fast"], folder) == 1


def test_a_script_that_fails_twice_fails_and_says_why(
    compare: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script(folder, None, None)
    assert compare.main([], folder) == 1
    said = capsys.readouterr()
    assert "it broke" in said.err
    assert set(rows(said.out).values()) == {"measured"}  # not measured


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fastest"], "no benchmark is called fastest; there are fast, slow"),
        (["slow"], "slow takes too long"),
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
        kept = compare.kept_values(benchmark, FOLDER)
        assert compare.Verdict(benchmark.name, benchmark.ratios[0], kept[0], kept[0]).passed
        assert (FOLDER / f"{benchmark.name}.py").is_file()
