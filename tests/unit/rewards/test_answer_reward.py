"""Answer correctness: what is read as the answer, and what counts as equal."""

import asyncio
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.data.rows import Row
from gkd_dist.data.word_problems import word_problems
from gkd_dist.errors import DataError, EngineError
from gkd_dist.rewards.answer import AnswerReward, check_references, final_answer
from gkd_dist.types import Answer


def rewards(match: str, *pairs: tuple[str, str]) -> list[float]:
    return asyncio.run(AnswerReward(match).judge([Answer("q", *pair) for pair in pairs]))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6 * 7 = 42", "42"),
        ("so 6 * 7 = 41\n#### 42", "42"),
        ("#### 3\nno, wait\n#### 42\nI checked 7 times", "42"),
        ("It is \\boxed{42}, not 17", "42"),
        ("first \\boxed{1}, then \\boxed{\\frac{84}{4}}", "21"),
        ("$1,234.50 in all", "1234.50"),
        ("-$5", "-5"),
        ("the change is $-5.", "-5"),
        ("10-4", "4"),
        ("(3)-4", "4"),
        ("x = \N{MINUS SIGN}4", "-4"),
        ("half of it: .5", "0.5"),
        ("one, 2, 3,4567", "4567"),
        ("1,234,567", "1234567"),
        ("####\n 12\n13", "12"),
        ("version 1.2.3 of A17", "1.2"),
        ("50% of 8kg", "8"),
        ("ends in a sentence with 42.", "42"),
        ("\\boxed{\\frac{1}{2}}", "1/2"),
        ("\\boxed{-\\dfrac{3}{4}}", "-3/4"),
        ("\\tfrac{-3}{4}", "-3/4"),
        ("\\frac12", "1/2"),
        ("2\\frac{1}{2}", "5/2"),
        ("1/2", "1/2"),
        ("it is 3 1/4 hours", "13/4"),
        ("-1/2", "-1/2"),
        ("on 3/4/2024", "2024"),
        ("1.5e3", "1500"),
        ("2E-2 m", "1/50"),
        ("1.5 \\times 10^{3}", "1500"),
        ("1 000", "1000"),
        ("\\boxed{1\\,000{,}000}", "1000000"),
        ("12 345.5", "24691/2"),
        ("\\boxed{7 cm^2}", "7"),
    ],
)
def test_the_answer_is_the_last_number_of_what_is_marked(text: str, number: str) -> None:
    assert final_answer(text, "number") == Fraction(number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "####",
        "\\boxed{}",
        "a.b",
        "12 is my guess\n#### unsure",
        "\\boxed{\\frac{x}{2}}",
        "\\frac{\\sqrt{3}}{2}",
        "1/0",
        "1e99999",
    ],
)
def test_a_text_may_have_no_number(text: str) -> None:
    assert final_answer(text, "number") is None


def test_equal_numbers_are_equal_however_they_are_written() -> None:
    pairs = [("42.0", "#### 42"), ("$1,000", "#### 1000"), ("43", "#### 42"), ("", "#### 42"), ("-42", "#### 42")]
    assert rewards("number", *pairs) == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_exact_compares_texts_up_to_white_space() -> None:
    pairs = [
        (" Paris,\n France", "Paris, France"),
        ("paris, france", "Paris, France"),
        ("because\n#### Paris", "as\n#### Paris"),
        ("\\boxed{a{b}c} d", "\\boxed{a{b}c}"),
        ("\\boxed{a", "a"),
    ]
    assert rewards("exact", *pairs) == [1.0, 0.0, 1.0, 1.0, 1.0]


@given(number=st.decimals(min_value=-(10**9), max_value=10**9, allow_nan=False, places=2), before=st.text(max_size=30))
def test_a_marked_number_is_found_behind_any_text(number: Decimal, before: str) -> None:
    assert final_answer(f"{before} #### {number:,}", "number") == Fraction(number)


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    assert isinstance(final_answer(text, "number"), Fraction | None)
    assert isinstance(final_answer(text, "exact"), str | None)


def test_huge_numbers_cost_nothing() -> None:
    assert rewards("number", ("9" * 100_000, "#### 42"), ("1e999999999", "#### 42")) == [0.0, 0.0]


def test_the_embedded_problems_are_solved_by_their_own_solutions() -> None:
    rows = word_problems(200, 0)
    check_references(rows, "the embedded problems", "number")
    assert rewards("number", *((row.completion, row.completion) for row in rows)) == [1.0] * 200


def test_rows_that_cannot_be_compared_with_are_refused() -> None:
    with pytest.raises(DataError, match=r"1 rows of rows\.jsonl have none"):
        check_references([Row("q", "#### 1"), Row("q")], "rows.jsonl", "number")
    with pytest.raises(DataError, match=r"one number.*2 completions of rows\.jsonl have none, such as 'Paris'"):
        check_references([Row("q", "Paris"), Row("q", "Rome"), Row("q", "1")], "rows.jsonl", "number")
    check_references([Row("q", "Paris")], "rows.jsonl", "exact")


@pytest.mark.parametrize(
    "answer", ["1, 2", "2x + 1", "x/2", "2\\sqrt{3}", "10^3", "3:30", "(1, 2)", "2\\pi", "\\frac{x}{2}"]
)
def test_a_marked_reference_that_is_more_than_a_number_is_refused(answer: str) -> None:
    for text in (f"#### {answer}", f"\\boxed{{{answer}}}"):
        with pytest.raises(DataError, match=r"one number with at most a unit.*use reward\.match=exact"):
            check_references([Row("q", text)], "rows.jsonl", "number")
        check_references([Row("q", text)], "rows.jsonl", "exact")


@pytest.mark.parametrize(
    "answer",
    ["42", "-1/2", "$1,000.", "\\$5", "50\\%", "30^\\circ", "7\\text{ cm}^2", "60 km/h", "12 apples", "\\frac{1}{2}"],
)
def test_a_marked_reference_may_have_a_unit(answer: str) -> None:
    check_references([Row("q", f"so\n#### {answer}"), Row("q", f"\\boxed{{{answer}}}")], "rows.jsonl", "number")


def test_no_text_is_no_answer() -> None:
    assert rewards("exact", ("", "so\n####"), ("####", "")) == [0.0, 0.0]
    with pytest.raises(DataError, match=r"exact needs an answer.*leave those rows out"):
        check_references([Row("q", "so\n#### ")], "rows.jsonl", "exact")


def test_an_answer_without_reference_is_an_error() -> None:
    with pytest.raises(EngineError, match="needs a reference completion for the prompt 'how many"):
        asyncio.run(AnswerReward("number").judge([Answer("how many?", "42", None)]))
