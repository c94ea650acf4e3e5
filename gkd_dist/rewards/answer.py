"""Answer correctness: 1 where an answer equals that of the reference completion, else 0."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Literal

from gkd_dist.data.rows import Row
from gkd_dist.errors import DataError, EngineError
from gkd_dist.types import Answer

Match = Literal["number", "exact"]

_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<!\))-)?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])(?:(?<!\))-)?\$?\.\d+", re.ASCII
)
"""A sign, commas between thousands, decimals. After a digit, a letter or `)` a minus subtracts: `10-4` ends in 4."""
_BOXED = "\\boxed{"


class AnswerReward:
    """Implements `interfaces.Reward`.

    What counts as the answer, on both sides: the first line of text after the last `####` (GSM8K), else the content of
    the last `\\boxed{}` (MATH), else the whole text.

    Args:
        match: `number` compares the last number of the answer (`42`, `$42.00` and `42.0` are equal; without a number it
            is wrong). `exact` compares the text, with runs of white space as one space.
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


def final_answer(text: str, match: Match) -> str | Decimal | None:
    """What `match` compares; None where a number is asked for and there is none.

    Example:
        final_answer("6 * 7 = 42\\n#### 42", "number")  # Decimal("42")
    """
    marked = _marked(text)
    if match == "exact":
        return " ".join(marked.split())
    numbers = _NUMBER.findall(marked.replace("\N{MINUS SIGN}", "-"))
    return Decimal(re.sub(r"[$,]", "", numbers[-1])) if numbers else None


def check_references(rows: Iterable[Row], source: str, match: Match) -> None:
    """Raise DataError unless every row has a completion whose answer can be compared with.

    Args:
        source: what to call the data set.
    """
    missing = unreadable = 0
    example: str | None = None
    for row in rows:
        if row.completion is None:
            missing += 1
        elif final_answer(row.completion, match) is None:
            unreadable += 1
            example = example or row.completion
    if missing:
        raise DataError(
            f"reward.type: answer compares with reference completions, but {missing} rows of {source} have none; name "
            "the completion column in data.fields, or choose another reward"
        )
    if example is not None:
        raise DataError(
            f"reward.match: number finds none in {unreadable} reference completions of {source}, such as "
            f"{example[:60]!r}; use reward.match=exact, or leave those rows out"
        )


def _marked(text: str) -> str:
    _, mark, after = text.rpartition("####")
    if mark:
        return after.strip().partition("\n")[0]
    start = text.rfind(_BOXED)
    return _braced(text[start + len(_BOXED) :]) if start >= 0 else text


def _braced(text: str) -> str:
    """`text` up to the brace that closes one opened before it; all of it where none does."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[:place]
    return text
