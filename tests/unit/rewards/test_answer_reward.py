"""Answer correctness: what is read as the answer, and what counts as equal."""

import asyncio
from decimal import Decimal

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
        ("first \\boxed{1}, then \\boxed{\\frac{84}{42}}", "42"),
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
    ],
)
def test_the_answer_is_the_last_number_of_what_is_marked(text: str, number: str) -> None:
    assert final_answer(text, "number") == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "####", "\\boxed{}", "a.b", "12 is my guess\n#### unsure"])
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
    assert final_answer(f"{before} #### {number:,}", "number") == number


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    final_answer(text, "number")
    final_answer(text, "exact")


def test_huge_numbers_cost_nothing() -> None:
    assert rewards("number", ("9" * 100_000, "#### 42"), ("1e999999999", "#### 42")) == [0.0, 0.0]


def test_the_embedded_problems_are_solved_by_their_own_solutions() -> None:
    rows = word_problems(200, 0)
    check_references(rows, "the embedded problems", "number")
    assert rewards("number", *((row.completion, row.completion) for row in rows)) == [1.0] * 200


def test_rows_that_cannot_be_compared_with_are_refused() -> None:
    with pytest.raises(DataError, match=r"1 rows of rows\.jsonl have none"):
        check_references([Row("q", "#### 1"), Row("q")], "rows.jsonl", "number")
    with pytest.raises(DataError, match=r"none in 2 reference completions of rows\.jsonl, such as 'Paris'"):
        check_references([Row("q", "Paris"), Row("q", "Rome"), Row("q", "1")], "rows.jsonl", "number")
    check_references([Row("q", "Paris")], "rows.jsonl", "exact")


def test_an_answer_without_reference_is_an_error() -> None:
    with pytest.raises(EngineError, match="needs a reference completion for the prompt 'how many"):
        asyncio.run(AnswerReward("number").judge([Answer("how many?", "42", None)]))
