"""The external calculator of arithmetic reasoning: it writes what stands behind `=` instead of the model.

GSM8K annotates computations as `48/2 = <<48/2=24>>24`. As in Cobbe et al., arXiv 2110.14168, the text written so far is
looked at when a `=` was written; where an annotation is open whose left side is arithmetic, its value and `>>` are put
there and the model goes on behind them.
"""

import re
from fractions import Fraction
from typing import Literal

from gkd_dist.evaluation.arithmetic import MAX_LETTERS, NoValueError, evaluate

_ANNOTATION = re.compile(r"<<(?P<expression>[^<>=]*)=(?P<value>[^<>=]*)>>")
_OPEN = re.compile(r"<<(?P<expression>[^<>=]*)=$")
_TERM = r"\$?\s?(?:[\d,]*\.?\d+|\d+\.)%?"
_EXPRESSION = (
    rf"(?<![\w.,$%*/+^(-])(?P<expression>[(]*\s?-?{_TERM}\s?[)]*"
    rf"(?:\s*(?:\*\*|[-+*/x\u00d7\u00f7\u2212])\s*[(]*\s?{_TERM}\s?[)]*)+)\s*"
)
_EQUATION = re.compile(_EXPRESSION + r"=\s*\$?(?P<value>-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|-?\.\d+)(?![\w%])")
_OPEN_EQUATION = re.compile(_EXPRESSION + r"=$")
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
        if found := _OPEN_EQUATION.search(tail.rpartition("\n")[2]):
            value = shown_value(found["expression"])
            return None if value is None else f" {value}"
        return None


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


def corrected(text: str) -> str:
    """`text` with the right value in every annotation and every plain equation whose left side is arithmetic.

    For text that was written without the calculator; what follows an equation is left as it is.

    Example:
        corrected("3 * 4 = <<3*4=13>>13")  # "3 * 4 = <<3*4=12>>13"
    """
    text = _ANNOTATION.sub(_mended, text)
    return _EQUATION.sub(_mended, text)


def _mended(found: re.Match[str]) -> str:
    value = shown_value(found["expression"])
    if value is None:
        return found[0]
    begin, end = found.span("value")
    start = found.start()
    return f"{found[0][: begin - start]}{value}{found[0][end - start :]}"


def _decimal(value: Fraction) -> str:
    """Of a number with at most `MAX_DECIMALS` decimals; `.5` has a zero in front."""
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    whole, rest = divmod(abs(value), 1)
    digits = f"{int(rest * 10**MAX_DECIMALS):0{MAX_DECIMALS}d}".rstrip("0")
    return f"{sign}{whole}.{digits}"
