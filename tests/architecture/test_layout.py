"""Modules stay small and carry the name of one thing."""

import statistics
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "gkd_dist"
MOST_LINES = 450
MEDIAN_LINES = 150
EMPTY_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"})


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_module_is_long() -> None:
    lengths = {str(path.relative_to(PACKAGE)): num_lines(path) for path in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_the_median_module_is_short() -> None:
    """Empty `__init__` files would flatter the median: they do not count."""
    lengths = [lines for path in PACKAGE.rglob("*.py") if (lines := num_lines(path))]
    assert statistics.median(lengths) < MEDIAN_LINES


def test_no_module_or_folder_is_named_after_nothing() -> None:
    named = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.suffix == ".py" or path.is_dir()]
    assert [str(path) for path in named if EMPTY_NAMES & set(path.stem.split("_"))] == []


def test_sources_are_ascii() -> None:
    assert [str(path) for path in PACKAGE.rglob("*.py") if not path.read_bytes().isascii()] == []
