"""Answer correctness: 1 where an answer equals that of the reference completion, else 0."""

import asyncio
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal

from gkd_dist.data.numbers import last_number, lone_number
from gkd_dist.data.rows import Row
from gkd_dist.errors import DataError, EngineError
from gkd_dist.types import Answer

Match = Literal["number", "exact"]

_BOXED = "\\boxed{"


class AnswerReward:
    """Implements `interfaces.Reward`.

    What counts as the answer, on both sides: the first line of text after the last `####` (GSM8K), else the content of
    the last `\\boxed{}` (MATH), else the whole text.

    Args:
        match: `number` compares the last number of the answer (`1/2`, `\\frac{1}{2}` and `$0.50` are equal; without a
            number it is wrong). `exact` compares the text, with runs of white space as one space; no text is wrong.
    """

    def __init__(self, match: Match) -> None:
        self._match = match

    async def judge(self, answers: Sequence[Answer]) -> list[float]:
        return await asyncio.to_thread(lambda: [self._reward(answer) for answer in answers])

    async def close(self) -> None:
        """Nothing to close."""

    def _reward(self, answer: Answer) -> float:
        if answer.reference is None:
            raise EngineError(f"reward.type=answer needs a reference completion for the prompt {answer.prompt[:60]!r}")
        found, wanted = (final_answer(text, self._match) for text in (answer.completion, answer.reference))
        return float(found is not None and found == wanted)


def final_answer(text: str, match: Match) -> str | Fraction | None:
    """What `match` compares; None where there is nothing to compare.

    Example:
        final_answer("6 * 7 = 42\\n#### 42", "number")  # Fraction(42)
    """
    marked = _marked(text)
    answer = text if marked is None else marked
    return last_number(answer) if match == "number" else " ".join(answer.split()) or None


def check_references(rows: Iterable[Row], source: str, match: Match) -> None:
    """Raise DataError unless every row has a completion whose answer can be compared with.

    Args:
        source: what to call the data set.
    """
    missing = 0
    unreadable: list[str] = []
    for row in rows:
        if row.completion is None:
            missing += 1
        elif _reference(row.completion, match) is None:
            unreadable.append(row.completion)
    if missing:
        raise DataError(
            f"reward.type: answer compares with reference completions, but {missing} rows of {source} have none; name "
            "the completion column in data.fields, or choose another reward"
        )
    if unreadable:
        example = unreadable[0]
        shown = _marked(example) or example
        wanted, remedy = (
            ("one number with at most a unit", "use reward.match=exact, or leave those rows out")
            if match == "number"
            else ("an answer", "leave those rows out")
        )
        raise DataError(
            f"reward.match: {match} needs {wanted} in each reference, and {len(unreadable)} completions of {source} "
            f"have none, such as {shown[:60]!r}; {remedy}"
        )


def _reference(text: str, match: Match) -> str | Fraction | None:
    """As `final_answer`, but what is marked as the answer must not hold more than it compares."""
    marked = _marked(text)
    return lone_number(marked) if match == "number" and marked is not None else final_answer(text, match)


def _marked(text: str) -> str | None:
    _, mark, after = text.rpartition("####")
    if mark:
        return after.strip().partition("\n")[0]
    start = text.rfind(_BOXED)
    return _braced(text[start + len(_BOXED) :]) if start >= 0 else None


def _braced(text: str) -> str:
    """`text` up to the brace that closes one opened before it; all of it where none does."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[:place]
    return text
