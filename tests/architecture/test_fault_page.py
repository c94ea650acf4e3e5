"""The page of the fault matrix says what the markers of the tests say."""

import pytest

from tests.fault_matrix import PAGE, ROWS, cases_by_row, marked, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.fault_matrix`"


def test_rows_are_counted_from_one_without_a_gap() -> None:
    assert list(ROWS) == list(range(1, len(ROWS) + 1))


def test_every_row_has_a_test_or_a_reason() -> None:
    tests = cases_by_row()
    assert [number for number, row in ROWS.items() if number not in tests and not row.untested] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("@pytest.mark.slow\n@pytest.mark.fault(3)\ndef test_a(): ...", [(3, "test_a")]),
        ("@pytest.mark.fault(4)\n@pytest.mark.fault(5)\nclass TestB: ...", [(4, "TestB"), (5, "TestB")]),
        ("@parametrize('x', [param(1, marks=pytest.mark.fault(6))])\ndef test_c(x): ...", [(6, "test_c")]),
        ("TestModel = pytest.mark.fault(38)(Model.TestCase)", [(38, "TestModel")]),
        ("pytestmark = [pytest.mark.ray, pytest.mark.fault(9)]", [(9, "")]),
        ("def test_d(): ...", []),
    ],
)
def test_markers_are_found_wherever_they_are(source: str, found: list[tuple[int, str]]) -> None:
    assert sorted(marked(source)) == found
