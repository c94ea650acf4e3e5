"""The external calculator of arithmetic reasoning: it writes what stands behind `=` instead of the model.

GSM8K annotates computations as `48/2 = <<48/2=24>>24`. As in Cobbe et al., arXiv 2110.14168, the text written so far is
looked at when a `=` was written; where an annotation is open whose left side is arithmetic, its value and `>>` are put
there and the model goes on behind them. Plain equations have no mark where they begin; they are answered where that is
sure, and in the manner in which they are written, so that the model reads text like that it learned from.
"""

import re
from fractions import Fraction
from typing import Literal

from gkd_dist.evaluation.arithmetic import MAX_LETTERS, NoValueError, evaluate

_OPEN = re.compile(r"<<(?P<expression>[^<>=]*)=$")
_ARITHMETIC = "0123456789.,+-*/()%$ x\u00d7\u00f7\u2212"
_OPERATION = re.compile(r"[\d.)%]\s?(?:\*\*|[-+*/x\u00d7\u00f7\u2212])\s?[-$(.\d]")
_LEAD = re.compile(r"(?:[ ,)]|\.(?!\d))*")
"""Of what stands before an expression: the end of a sentence, a comma, the parenthesis of a list's number."""
_TIMES = r"\s?[*x\u00d7]\s?"
_SHARE = re.compile(rf"(?:\$?[1-9][\d,.]*{_TIMES})*(?!100%)[\d.]+%(?:{_TIMES}\$?[1-9][\d,.]*)*")
"""A percentage of something. Sums and products of percentages are percentages again, and written so."""
_AMBIGUOUS = re.compile(r"x\s?[-+*/\u2212]|/\s+\d+/\d")
"""An unknown called x, and a fraction that divides: `50/ 1/2`."""
_PER_DOLLAR = re.compile(r"[/\u00f7]\s?\(?\$")
_SIGNS = ("+", "-", "\u2212")
_OPENERS = ("", ":", ";", "=")
_ATTACHED = re.compile(r"(?:\w|\d:|[\u20ac\u00a3\u00a2])$")
MAX_DECIMALS = 4
_MOST = 10**15


class Calculator:
    """Args:
    mode: `annotations` answers `<<expr=` alone, `equations` any `expr =` too.
    """

    def __init__(self, mode: Literal["annotations", "equations"]) -> None:
        self._mode = mode

    def continuation(self, text: str) -> str | None:
        """What belongs behind `text`, whose last letter is `=`; None where the model goes on by itself."""
        if not text.endswith("="):
            return None
        tail = text[-2 * MAX_LETTERS :]
        if found := _OPEN.search(tail):
            value = shown_value(found["expression"])
            return None if value is None else f"{value}>>"
        if self._mode == "annotations" or (tail.rpartition("<<")[1] and ">>" not in tail.rpartition("<<")[2]):
            return None
        line = tail.rpartition("\n")[2][:-1]
        value = _stated_value(_last_expression(line))
        return None if value is None else f"{' ' * line.endswith(' ')}{value}"


def _last_expression(text: str) -> str:
    """The end of `text` that is arithmetic as a whole; empty where its first part may be a word, as in `a - 5 + 3`.

    A dash at the beginning of a line, with a space behind it, is that of a list.
    """
    before = text.rstrip(_ARITHMETIC)
    rest = text[len(before) :]
    expression = rest[_LEAD.match(rest).end() :]  # it matches nothing too
    lead = rest.removesuffix(expression)
    if not lead and _ATTACHED.search(before):
        return ""  # `w3 + 4`, `f(2)`, `6:00+48`, and money that would come out as a bare number
    if not before and not lead:
        expression = expression.removeprefix("- ")
    is_alone = before[-1:] in _OPENERS or "," in lead or "." in lead
    return expression if is_alone or expression[:1] not in _SIGNS else ""


def _stated_value(expression: str) -> str | None:
    """The value as a solution states it: with the dollar sign of what is added up or multiplied."""
    if not _OPERATION.search(expression) or _AMBIGUOUS.search(expression):
        return None
    if "%" in expression and not _SHARE.fullmatch(expression.strip()):
        return None
    value = shown_value(expression)
    if value is not None and Fraction(value) != evaluate(expression):
        return None  # two thirds: a solution goes on with the fraction, or with more decimals
    if value is None or "$" not in expression or _PER_DOLLAR.search(expression):
        return value
    return f"-${value[1:]}" if value.startswith("-") else f"${value}"


def shown_value(expression: str) -> str | None:
    """The value as GSM8K writes it: whole, or with at most four decimals; None where there is none to be had."""
    try:
        value = evaluate(expression)
    except NoValueError:
        return None
    if abs(value) >= _MOST:
        return None
    rounded = round(value, MAX_DECIMALS)
    if value and not rounded:
        return None
    return _decimal(rounded)


def _decimal(value: Fraction) -> str:
    """Of a number with at most `MAX_DECIMALS` decimals; `.5` has a zero in front."""
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    whole, rest = divmod(abs(value), 1)
    digits = f"{int(rest * 10**MAX_DECIMALS):0{MAX_DECIMALS}d}".rstrip("0")
    return f"{sign}{whole}.{digits}"
