"""Rows of a data set as text, before any tokenizer (floor F2)."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

RowFormat = Literal["prompt", "prompt+completion", "messages"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, in the chat format of the Hugging Face libraries."""

    role: str
    """`system`, `user`, `assistant`, or what else the chat template knows."""
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt, with its reference completion where the data set has one."""

    prompt: str | tuple[Message, ...]
    completion: str | None = None
    source: str | None = None
    """Where the row comes from, for routing between teachers; None where no column says it."""

    @property
    def texts(self) -> list[str]:
        """All that is written in it."""
        turns = [self.prompt] if isinstance(self.prompt, str) else [message.content for message in self.prompt]
        return turns if self.completion is None else [*turns, self.completion]


@dataclass(frozen=True, slots=True)
class Rows:
    """The usable rows of one data set."""

    rows: tuple[Row, ...]
    format: RowFormat
    """What was detected; `prompt+completion` and `messages` have a completion in every row."""
    source: str
    """Where they come from, for people: a file, a hub name and split, or the embedded problems."""
    num_skipped: Mapping[str, int] = field(default_factory=dict)
    """Rows left out, by reason (`empty prompt`, ...)."""

    @property
    def sources(self) -> dict[str, int]:
        """How many rows each named source has, by name."""
        counts = Counter(row.source for row in self.rows if row.source is not None)
        return dict(sorted(counts.items()))

    @property
    def has_completions(self) -> bool:
        return self.format != "prompt"

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        skipped = "".join(f", {number} skipped ({reason})" for reason, number in sorted(self.num_skipped.items()))
        return f"{len(self.rows)} rows of format {self.format} from {self.source}{skipped}"
