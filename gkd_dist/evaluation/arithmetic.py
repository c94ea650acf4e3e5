"""The value of an arithmetic expression, exactly and in bounded time; nothing is executed.

    sum     := product (("+" | "-") product)*
    product := factor (("*" | "/" | "x" | times | division sign) factor)*
    factor  := ("+" | "-") factor | power
    power   := atom ["%"] [("**" | "^") factor]
    atom    := number | "(" sum ")"

Numbers may have thousands commas, decimals and a dollar sign. `%` divides by a hundred.
"""

import re
from fractions import Fraction

MAX_LETTERS = 200
"""Of an expression, which also bounds how deeply its parentheses nest."""
MAX_BITS = 2048
"""Of numerator and denominator of every value on the way."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\$?\s?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\$?\.\d+)"
    r"|(?P<operator>\*\*|[-+*/^()%x\u00d7\u00f7\u2212]))",
    re.ASCII,
)
_SAME = {"x": "*", "\u00d7": "*", "\u00f7": "/", "\u2212": "-", "^": "**"}


class NoValueError(Exception):
    """Not an expression, or one without a value that can be had."""


def evaluate(expression: str) -> Fraction:
    """The exact value.

    Raises:
        NoValueError: it is no expression, divides by zero, has a power that is not a whole number, or is too large.

    Example:
        evaluate("2*(1,000+0.5)")  # Fraction(2001)
    """
    if len(expression) > MAX_LETTERS:
        raise NoValueError(f"longer than {MAX_LETTERS} letters")
    reader = _Reader(_tokens(expression))
    value = reader.sum()
    if reader.next is not None:
        raise NoValueError(f"{reader.next!r} is out of place")
    return value


def _tokens(expression: str) -> list[str | Fraction]:
    tokens: list[str | Fraction] = []
    place, end = 0, len(expression.rstrip())
    while place < end:
        found = _TOKEN.match(expression, place)
        if found is None:
            raise NoValueError(f"{expression[place]!r} is not arithmetic")
        place = found.end()
        if found["number"]:
            tokens.append(Fraction(re.sub(r"[^\d.]", "", found["number"])))
        else:
            tokens.append(_SAME.get(found["operator"], found["operator"]))
    return tokens


class _Reader:
    """Reads tokens from left to right, one method per line of the grammar."""

    def __init__(self, tokens: list[str | Fraction]) -> None:
        self._tokens = tokens
        self._place = 0

    @property
    def next(self) -> str | Fraction | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def sum(self) -> Fraction:
        value = self._product()
        while self.next in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            value = _bounded(value + sign * self._product())
        return value

    def _product(self) -> Fraction:
        value = self._factor()
        while self.next in ("*", "/"):
            divides, other = self._take() == "/", self._factor()
            if divides and not other:
                raise NoValueError("division by zero")
            value = _bounded(value / other if divides else value * other)
        return value

    def _factor(self) -> Fraction:
        if self.next in ("+", "-"):
            return self._factor() if self._take() == "+" else -self._factor()
        return self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        while self.next == "%":
            self._take()
            base /= 100
        if self.next != "**":
            return base
        self._take()
        return _power(base, self._factor())

    def _atom(self) -> Fraction:
        token = self._take()
        if isinstance(token, Fraction):
            return token
        if token != "(":
            raise NoValueError("incomplete" if token is None else f"{token!r} is out of place")
        value = self.sum()
        if self._take() != ")":
            raise NoValueError("a parenthesis is not closed")
        return value

    def _take(self) -> str | Fraction | None:
        token = self.next
        self._place += 1
        return token


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise NoValueError("a power that is not a whole number")
    if not base and exponent < 0:
        raise NoValueError("division by zero")
    if _bits(base) * abs(exponent.numerator) > MAX_BITS and abs(base) != 1 and base:
        raise NoValueError("a power that is too large")
    return Fraction(base**exponent.numerator) if base and abs(base) != 1 else _small_power(base, exponent.numerator)


def _small_power(base: Fraction, exponent: int) -> Fraction:
    """Of 0, 1 and -1: whatever the exponent is, quickly."""
    if not base:
        return Fraction(exponent == 0)
    return Fraction(-1) if base < 0 and exponent % 2 else Fraction(1)


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise NoValueError("a value that is too large")
    return value


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())
