"""The external calculator of arithmetic reasoning: it writes what stands behind `=` instead of the model.

GSM8K annotates computations as `48/2 = <<48/2=24>>24`. As in Cobbe et al., arXiv 2110.14168, the text written so far is
looked at when a `=` was written; where an annotation is open whose left side is arithmetic, its value and `>>` are put
there and the model goes on behind them.
"""

import re
from fractions import Fraction
from typing import Literal

from gkd_dist.evaluation.arithmetic import MAX_LETTERS, NoValueError, evaluate

_OPEN = re.compile(r"<<(?P<expression>[^<>=]*)=$")
_ARITHMETIC = "0123456789.,+-*/()%$ x\u00d7\u00f7\u2212"
_OPERATION = re.compile(r"[\d.)%]\s?(?:\*\*|[-+*/x\u00d7\u00f7\u2212])\s?[-$(.\d]")
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
        expression = _last_expression(tail.rpartition("\n")[2][:-1])
        value = shown_value(expression) if _OPERATION.search(expression) else None
        return None if value is None else f" {value}"


def _last_expression(text: str) -> str:
    """The end of `text` that could be arithmetic, from its first number or parenthesis on; a dash of a list is none."""
    before = text.rstrip(_ARITHMETIC)
    expression = text[len(before) :].lstrip(" .,x*/+%)").removeprefix("- ")
    return "" if before[-1:].isalnum() and text[len(before) : len(before) + 1].isdigit() else expression


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
