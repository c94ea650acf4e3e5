"""The evaluator against exact fractions, and what it refuses."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.evaluation.arithmetic import NoValueError, evaluate

Pair = tuple[str, Fraction]

numbers = st.decimals(min_value=0, max_value=10_000, places=2).map(lambda number: (f"{number:f}", Fraction(number)))


def _joined(pair: tuple[Pair, str, Pair]) -> Pair | None:
    (left, a), operator, (right, b) = pair
    if operator == "/" and b == 0:
        return None
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[operator]
    return f"({left} {operator}{right})", value


def _deeper(children: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    joined = st.tuples(children, st.sampled_from("+-*/"), children).map(_joined).filter(lambda pair: pair is not None)
    return st.one_of(joined, children.map(lambda pair: (f"-{pair[0]}", -pair[1])))


expressions = st.recursive(numbers, _deeper, max_leaves=8).filter(lambda pair: len(pair[0]) <= 200)


@given(expressions)
def test_an_expression_has_the_value_of_its_fractions(pair: Pair) -> None:
    text, value = pair
    assert evaluate(text) == value


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=12), st.lists(st.sampled_from("+-*"), min_size=11, max_size=11)
)
def test_precedence_and_order_are_those_of_python(numbers: list[int], operators: list[str]) -> None:
    """Sums of products, computed here by splitting at the signs: no evaluator of Python's is asked."""
    text = "".join(f"{number}{operator}" for number, operator in zip(numbers, [*operators, ""], strict=False))
    text = text.rstrip("+-*")
    total = 0
    for term in text.replace("-", "+-").split("+"):
        product = -1 if term.startswith("-") else 1
        for factor in term.lstrip("-").split("*"):
            product *= int(factor)
        total += product
    assert evaluate(text) == total


@given(st.text(alphabet="0123456789+-*/().,%x$ ^", max_size=40))
def test_any_text_has_a_value_or_is_refused(text: str) -> None:
    try:
        assert isinstance(evaluate(text), Fraction)
    except NoValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("48/2", 24),
        ("2**3**2", 512),
        ("-2**2", -4),
        ("2^-1", Fraction(1, 2)),
        ("20%*50", 10),
        ("$1,000.50+$2", Fraction(2005, 2)),
        ("3 x 4", 12),
        ("6\u00f74\u00d72", 3),
        (".5+5.", Fraction(11, 2)),
        ("1**99999999999", 1),
        ("(-1)**99999999999", -1),
        ("0**0", 1),
    ],
)
def test_notations(text: str, value: Fraction) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "1/0", "0**-1", "2**0.5", "1+", "(1", "1)", "1 2", "a", "__import__('os')", "1,00", "()", "1//2", "9" * 201],
)
def test_what_is_not_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(NoValueError):
        evaluate(text)


@pytest.mark.parametrize("text", ["9**9**9**9", "2**99999999", "(10**500)*(10**500)", "0.1**9999"])
def test_a_huge_value_is_refused_before_it_is_computed(text: str) -> None:
    began = time.process_time()
    with pytest.raises(NoValueError, match="too large"):
        evaluate(text)
    assert time.process_time() - began < 1  # computed, it would take hours or all memory
