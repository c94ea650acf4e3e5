"""Numbers as answers write them: decimals, thousands separators, powers of ten, fractions of LaTeX or with a slash.

The one grammar of what grades answers, in rewards and in evaluation.
"""

import re
from fractions import Fraction

_SEPARATOR = r"(?:,(?:\\!)?|\{,\}|\\[,;\ ]|[\ \u00a0\u2009\u202f])"
_PLAIN = rf"(?:\d{{1,3}}(?:{_SEPARATOR}\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"""
    (?P<sign>(?<![\w)}}.])-\s*)?
    (?:(?<![\w.])(?P<whole>\d+)\s*)?
    \\[cdt]?frac\s*(?:(?P<top>\d|{{[^{{}}]*}})\s*(?P<bottom>\d|{{[^{{}}]*}})|(?:{{(?:[^{{}}]|{{[^{{}}]*}})*}}\s*){{1,2}})
    |
    (?<![\w.^])(?<!\^{{)(?P<minus>(?<!\))-)?(?:\\?\$|[\u20ac\u00a3\u00a5])?
    (?:
        (?<!\d/)(?:(?P<ones>\d+)[ ]+)?(?P<numerator>\d+)\s?/\s?(?P<denominator>\d+)(?![\d/]|[.,]\d)
        |
        (?P<plain>{_PLAIN})
        (?:[eE](?P<exponent>[+-]?\d+)|\s*(?:\\times|\\cdot|[*\u00b7\u00d7])\s*10\s*\^\s*{{?(?P<power>[+-]?\d+)}}?)?
    )
    """,
    re.ASCII | re.VERBOSE,
)
"""After a digit, a letter, a dot or `)` a minus subtracts: `10-4` ends in 4. A number in an exponent is none by itself.
A LaTeX fraction of anything but two numbers is found as one that cannot be read, rather than as the digits in it."""
_CURRENCY = re.compile(r"(?:\\?\$|[\s\u20ac\u00a3\u00a5])*")
_UNIT = re.compile(
    r"(?:\\(?:text|mathrm|mbox)\b|\\[,;!\ %$]|\^{?\\circ}?|(?<=[A-Za-z}])(?:\^{?-?\d}?|/)|[{}$%\u00b0.'\s]|[^\W\d_])*"
)
"""What may follow the number: words, percent, degrees, `km/h`, `cm^2`; nothing that computes."""
_MOST_LETTERS = 1000
"""Of a number: reading one takes time that grows with the square of its length."""


def last_number(text: str) -> Fraction | None:
    """The last number of `text`; None where there is none, or the last one cannot be read (`\\frac{x}{2}`, `1/0`)."""
    found = list(_NUMBER.finditer(_with_minus(text)))
    return _value(found[-1]) if found else None


def lone_number(text: str) -> Fraction | None:
    """The number of a text that is one number with a currency or a unit; None where it is something else."""
    text = _with_minus(text)
    found = _NUMBER.search(text)
    if found is None or not _CURRENCY.fullmatch(text[: found.start()]) or not _UNIT.fullmatch(text[found.end() :]):
        return None
    return _value(found)


def _value(found: re.Match[str]) -> Fraction | None:
    parts = found.groupdict()
    if len(found[0]) > _MOST_LETTERS:
        return None
    if parts["plain"]:
        power = int(parts["exponent"] or parts["power"] or 0)
        if abs(power) > _MOST_LETTERS:
            return None
        value = _plain(parts["plain"]) * Fraction(10) ** power
    else:
        top, bottom = parts["top"] or parts["numerator"], parts["bottom"] or parts["denominator"]
        if not top or not bottom:
            return None
        over, under = (_signed(part.strip("{} ")) for part in (top, bottom))
        if over is None or not under:
            return None
        value = int(parts["whole"] or parts["ones"] or 0) + over / under
    return -value if parts["sign"] or parts["minus"] else value


def _signed(text: str) -> Fraction | None:
    negative = text.startswith("-")
    text = text.removeprefix("-")
    if not re.fullmatch(_PLAIN, text, re.ASCII):
        return None
    return -_plain(text) if negative else _plain(text)


def _plain(text: str) -> Fraction:
    return Fraction(re.sub(r"[^\d.]", "", text))


def _with_minus(text: str) -> str:
    return text.replace("\N{MINUS SIGN}", "-")
