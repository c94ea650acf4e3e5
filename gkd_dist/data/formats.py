"""Column formats of TRL: which columns a record has, and the `Row` they make (floor F2).

    prompt               text, or a list of messages
    prompt + completion  text, or lists of messages (the completion is one assistant message); a list of texts, as
                         `gkd generate` writes them, is a row for each that is not `truncated`
    messages             a list of messages; the last assistant message is the completion, what precedes it the prompt

A wrong type is an error that names the place; an empty cell, or a completion that was cut, makes the row unusable,
which is counted.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from gkd_dist.config.data import DataFields
from gkd_dist.data.rows import Message, Row, RowFormat
from gkd_dist.data.sources import Record
from gkd_dist.errors import DataError

TRUNCATED = "truncated"
"""Column beside a list of completions: for each, whether a length limit ended it."""


class _UnusableRowError(Exception):
    """A well-formed row that holds nothing to train on; the message is the reason, for counting."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The format of a data set and the columns that hold it."""

    format: RowFormat
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    source: str | None = None
    """None where no source is read."""

    def rows(self, record: Record, place: str) -> tuple[list[Row], Counter[str]]:
        """The usable rows of one record, which is one row or has several completions; and how many rows are left out,
        by reason: a cell is empty, a conversation has no answer, the length limit cut the completion.

        Raises:
            DataError: a column is missing or has the wrong type.
        """
        rows: list[Row] = []
        left_out: Counter[str] = Counter()
        for single, is_cut in self._singles(record, place):
            try:
                if is_cut:  # an end behind it would be a false one
                    raise _UnusableRowError("cut off by the length limit")
                rows.append(self._row(single, place))
            except _UnusableRowError as reason:
                left_out[str(reason)] += 1
        return rows, left_out

    def _singles(self, record: Record, place: str) -> Iterator[tuple[Record, bool]]:
        """A record for each completion, and whether that was cut."""
        texts = cell(record, self.completion, place) if self.format == "prompt+completion" else None
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            yield record, False
            return
        for text, is_cut in zip(texts, _cut(record, len(texts), place), strict=True):
            yield {**record, self.completion: text}, is_cut

    def _row(self, record: Record, place: str) -> Row:
        row = self._content(record, place)
        if self.source is None:
            return row
        source = _text(cell(record, self.source, place), f"{place}: {self.source}", "empty source", "text")
        return replace(row, source=source)

    def _content(self, record: Record, place: str) -> Row:
        if self.format == "messages":
            return _conversation(cell(record, self.messages, place), f"{place}: {self.messages}")
        prompt_place = f"{place}: {self.prompt}"
        prompt = _prompt(cell(record, self.prompt, place), prompt_place)
        if self.format == "prompt":
            return Row(prompt)
        return Row(prompt, _completion(cell(record, self.completion, place), f"{place}: {self.completion}"))


def detect_columns(fields: DataFields, record: Record, place: str) -> Columns:
    """The columns of a data set: those of its format, and that of the source where the user names one.

    Raises:
        DataError: as `_content_columns`, or no column of the source's name.
    """
    columns = _content_columns(fields, record, place)
    if fields.source is None:
        return columns
    cell(record, fields.source, place)
    return replace(columns, source=fields.source)


def _content_columns(fields: DataFields, record: Record, place: str) -> Columns:
    """The format of a data set, from the names the user gave and the columns of its first record.

    Without names, a record with `prompt` and `completion` is that pair, one with `messages` a conversation, and
    one with `prompt` alone a prompt.

    Raises:
        DataError: names that exclude each other, a named column that is missing, or no known column.
    """
    if fields.messages and (fields.prompt or fields.completion):
        raise DataError("data.fields: give either messages, or prompt (and completion), not both")
    if fields.messages:
        cell(record, fields.messages, place)
        return Columns("messages", messages=fields.messages)
    prompt, completion = fields.prompt or "prompt", fields.completion or "completion"
    if fields.prompt or fields.completion:
        cell(record, prompt, place)
        if fields.completion:
            cell(record, completion, place)
        has_completion = bool(fields.completion) or completion in record
        return Columns("prompt+completion" if has_completion else "prompt", prompt, completion)
    if "prompt" in record and "completion" in record:
        return Columns("prompt+completion")
    if "messages" in record:
        return Columns("messages")
    if "prompt" in record:
        return Columns("prompt")
    raise DataError(
        f"{place}: no column named prompt or messages, only {_listed(record)}; "
        "say which columns to use, for example data.fields.prompt=question data.fields.completion=answer"
    )


def cell(record: Record, column: str, place: str) -> Any:
    """The value of a column; `a.b` is also the column `b` of an object in `a`.

    Raises:
        DataError: no such column.
    """
    if column in record:
        return record[column]
    outer, _, inner = column.partition(".")
    if inner and isinstance(record.get(outer), dict):
        return cell(record[outer], inner, f"{place}: {outer}")
    near = difflib.get_close_matches(column, [str(key) for key in record], n=1)
    hint = f"; did you mean {near[0]}?" if near else "; map it with data.fields"
    raise DataError(f"{place}: no column {column!r}, only {_listed(record)}{hint}")


def _cut(record: Record, number: int, place: str) -> list[bool]:
    """For each of so many completions, whether a length limit ended it; none where the record does not say.

    Raises:
        DataError: it says so of another number of them, or in another way.
    """
    cut = record.get(TRUNCATED)
    if cut is None:
        return [False] * number
    if isinstance(cut, list) and len(cut) == number and all(isinstance(each, bool) for each in cut):
        return cut
    found = f"{len(cut)} of them" if isinstance(cut, list) and len(cut) != number else f"{cut!r:.60}"
    raise DataError(
        f"{place}: {TRUNCATED} must be a list with true or false for each of the {number} completions, found {found}; "
        "write the file anew with gkd generate, or remove the column where no completion was cut"
    )


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "no columns at all"


def _prompt(cell: Any, place: str) -> str | tuple[Message, ...]:
    if isinstance(cell, list):
        if not cell:
            raise _UnusableRowError("empty prompt")
        return _messages(cell, place)
    return _text(cell, place, "empty prompt", "text or a list of messages")


def _completion(cell: Any, place: str) -> str:
    if not isinstance(cell, list):
        return _text(cell, place, "empty completion", "text or a list with one assistant message")
    messages = _messages(cell, place)
    if not messages:
        raise _UnusableRowError("empty completion")
    if len(messages) != 1 or messages[0].role != "assistant":
        raise DataError(
            f"{place}: a completion must be one assistant message, found roles "
            f"{', '.join(message.role for message in messages)}; put earlier turns into the prompt"
        )
    return _text(messages[0].content, place, "empty completion", "text")


def _conversation(cell: Any, place: str) -> Row:
    if cell is not None and not isinstance(cell, list):
        raise DataError(f"{place}: must be a list of messages, found {type(cell).__name__}")
    messages = _messages(cell or [], place)
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        raise _UnusableRowError("no assistant message")
    last = answers[-1]
    if last == 0:
        raise _UnusableRowError("nothing before the assistant message")
    return Row(messages[:last], _text(messages[last].content, place, "empty completion", "text"))


def _messages(cell: list[Any], place: str) -> tuple[Message, ...]:
    messages = []
    for number, entry in enumerate(cell, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
            raise DataError(f"{place}: message {number} must be an object with role and content, found {entry!r:.80}")
        if not isinstance(entry.get("content"), str):
            raise DataError(
                f"{place}: the content of message {number} ({entry['role']}) must be text, "
                f"found {type(entry.get('content')).__name__}; images and tool calls are not supported"
            )
        messages.append(Message(entry["role"], entry["content"]))
    return tuple(messages)


def _text(cell: Any, place: str, empty: str, wanted: str) -> str:
    if cell is None:
        raise _UnusableRowError(empty)
    if not isinstance(cell, str):
        raise DataError(f"{place}: must be {wanted}, found {type(cell).__name__}")
    if not cell.strip():
        raise _UnusableRowError(empty)
    if any("\ud800" <= character <= "\udfff" for character in cell):
        raise DataError(f"{place}: holds half of a surrogate pair, which is no text; mend or drop the row")
    return cell
