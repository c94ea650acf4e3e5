"""The fault matrix: what happens in each case, and the tests that show it.

`python -m tests.fault_matrix` reads the markers `fault(ROW)` of all tests, without running or importing them, and
writes docs/faults.md. The rows are in `fault_matrix.yaml`.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "faults.md"

HEAD = """# Faults

What a run does when something breaks, and the tests that show it. In each of them the fault really happens and leaves
a witness: the pid of a process that was killed, the mark of a fault point, a message, an event of a replica.
The tests in `tests/faults` break the command itself in processes of its own, those in `tests/integration` break Ray
actors and nodes, those in `tests/unit` break one module. More words: [running.md](running.md).

Exit codes: 0 done, 2 to be mended by the user, 70 gave up with a diagnosis, 75 stopped with a good checkpoint.

Written by `python -m tests.fault_matrix` from the markers `fault(ROW)` of the tests.

| row | fault | what happens | tests |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Row:
    """One line of the matrix."""

    fault: str
    expected: str
    untested: str = ""
    """Why no test shows it, while none does."""


ROWS = {
    number: Row(**fields)
    for number, fields in enumerate(
        yaml.safe_load((REPOSITORY / "tests" / "fault_matrix.yaml").read_text(encoding="utf-8")), start=1
    )
}


def marked(source: str) -> Iterator[tuple[int, str]]:
    """(row, name of the test) of every marker in a file; for one that is on no function or class, the name is empty."""
    inside: dict[ast.Call, str] = {}
    calls = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                inside |= {each: node.name for each in ast.walk(decorator) if isinstance(each, ast.Call)}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            inside |= {each: name for each in ast.walk(node.value) if isinstance(each, ast.Call)}
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.fault"):
            calls.append(node)
    for call in calls:
        name = inside.get(call, "")
        yield int(ast.unparse(call.args[0])), "" if name == "pytestmark" else name


def cases_by_row() -> dict[int, list[tuple[Path, str]]]:
    """Files below the repository and names of tests, by row."""
    found: dict[int, set[tuple[Path, str]]] = defaultdict(set)
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for row, name in marked(path.read_text(encoding="utf-8")):
            found[row].add((path.relative_to(REPOSITORY), name))
    return {row: sorted(tests) for row, tests in found.items()}


def page() -> str:
    """docs/faults.md as it should be.

    Raises:
        ValueError: a marker of a row that is not there.
    """
    tests = cases_by_row()
    unknown = sorted(tests.keys() - ROWS.keys())
    if unknown:
        raise ValueError(f"rows that are not in the matrix: {unknown}")
    return HEAD + "".join(
        f"| {number} | {row.fault} | {row.expected} | {_shown(row, tests.get(number, []))} |\n"
        for number, row in ROWS.items()
    )


def _shown(row: Row, tests: list[tuple[Path, str]]) -> str:
    if not tests:
        return f"none: {row.untested or 'not written yet'}"
    return "<br>".join(f"[{name.removeprefix('test_') or path.stem}](../{path.as_posix()})" for path, name in tests)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
