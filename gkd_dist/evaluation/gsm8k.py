"""Grading of worked answers to word problems: the number behind the last answer marker."""

import re
from fractions import Fraction

from gkd_dist.data import numbers

_MARKER = re.compile(r"(?:^|\n)\s*A:|[Tt]he (?:final )?answer is:?")
_SENTENCE_END = re.compile(r"[.!?]\s")


def answer_number(text: str) -> Fraction | None:
    """The last number of the line behind the last `####`; None without one.

    A text without `####` may say `A:` at the start of a line, or `The answer is`: the last number of that sentence.

    Example:
        answer_number("6 * 7 = 42\\n#### $1,042.")  # Fraction(1042)
    """
    marked = _marked(text)
    return None if marked is None else numbers.last_number(marked)


def last_number(text: str) -> Fraction | None:
    """`answer_number`, else the last number anywhere; None where there is none."""
    marked = answer_number(text)
    return numbers.last_number(text) if marked is None else marked


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


def _marked(text: str) -> str | None:
    _, mark, after = text.rpartition("####")
    if mark:
        return after.strip().partition("\n")[0]
    marks = list(_MARKER.finditer(text))
    if not marks:
        return None
    line = text[marks[-1].end() :].lstrip().partition("\n")[0]
    return _SENTENCE_END.split(line, maxsplit=1)[0]
