"""Grading of worked answers to word problems: the number behind the last answer marker."""

import re
from fractions import Fraction

_MARKER = re.compile(r"####|(?:^|\n)\s*A:|[Tt]he (?:final )?answer is:?")
_NUMBER = re.compile(r"-?\s?[$\u20ac\u00a3]?\s?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|-?[$\u20ac\u00a3]?\.\d+")


def answer_number(text: str) -> Fraction | None:
    """The first number behind the last `####`, `A:` at the start of a line, or `The answer is`; None without one.

    Example:
        answer_number("6 * 7 = 42\\n#### $1,042.")  # Fraction(1042)
    """
    marks = list(_MARKER.finditer(text))
    if not marks:
        return None
    line = text[marks[-1].end() :].lstrip().partition("\n")[0]
    found = _NUMBER.search(line)
    return None if found is None else _value(found[0])


def last_number(text: str) -> Fraction | None:
    """`answer_number`, else the last number anywhere; None where there is none."""
    marked = answer_number(text)
    if marked is not None:
        return marked
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def is_correct(text: str, reference: str, *, marked: bool = True) -> bool:
    """Whether the answer in `text` equals that of the reference: its marked number, else its last one.

    Args:
        marked: False takes the last number where no marker stands before one.

    Raises:
        ValueError: the reference has no number.
    """
    wanted = last_number(reference)
    if wanted is None:
        raise ValueError(f"the reference has no number: {reference[-60:]!r}")
    return (answer_number(text) if marked else last_number(text)) == wanted


def _value(text: str) -> Fraction:
    return Fraction(re.sub(r"[^\d.-]", "", text))
