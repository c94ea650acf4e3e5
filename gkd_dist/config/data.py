"""Prompts and fixed pairs."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from gkd_dist.config.base import Strict


class DataFields(Strict):
    """Which columns hold what, when they are not called as in TRL's formats."""

    prompt: str | None = None
    """A dot leads into a nested object: `translation.en`."""
    completion: str | None = None
    """Column of the answer."""
    messages: str | None = None
    """Column of a chat in TRL's format; the last message of the assistant is the completion."""
    source: str | None = None
    """Text that says where a row comes from (`gsm8k`, `mbpp`); read only when it is named here. Several teachers are
    routed by it."""


class DataConfig(Strict):
    path: str | None = None
    """JSONL (optionally .gz) or Parquet file, or a hub data set name; None is the embedded word problems."""
    split: str = "train"
    """Split of a hub data set."""
    fields: DataFields = DataFields()
    prompt_template: str | None = Field(
        default=None, pattern=r"\{prompt\}", description="text that contains {prompt}, or null"
    )
    """Put around each prompt that is text, in place of {prompt}: a task's prefix, or examples before the question."""
    strip: str | None = None
    """Regular expression of what is taken out of completions that are text: calculator annotations, end markers."""
    written_by: Literal["ground_truth", "teacher"] = "ground_truth"
    """Who wrote the completions, for the ledger and the metrics: `teacher` in SeqKD."""
    num_train: int | None = Field(default=None, ge=1)
    """Use the first this many rows after the held-out ones; None means all (2,000 of the embedded set)."""
    num_held_out: int = Field(default=16, ge=1)
    """Rows set aside for evaluation; never trained on."""
    apply_chat_template: bool | Literal["auto"] = "auto"
    """`auto`: render with the tokenizer's chat template where it has one."""
    system_prompt: str | None = None
    """Opens every conversation that has no system message of its own; needs a chat template."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """None: what the context leaves after max_new_tokens."""
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"] = "drop"
    """What to do with a prompt that is too long; the side named is cut away."""
    max_dropped_share: float = Field(default=0.1, ge=0, le=1)
    """More than this share dropped is an error."""
    shuffle: bool = True
    """A new order of the rows in each epoch, by the seed."""

    @field_validator("strip")
    @classmethod
    def _is_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"must be a regular expression, and is none: {error}") from error
        return value

    @model_validator(mode="after")
    def _teachers_text(self) -> "DataConfig":
        if self.written_by == "teacher" and self.path is None:
            raise ValueError(
                "no teacher wrote the embedded word problems; set path to the file of what a teacher wrote, or "
                "written_by=ground_truth"
            )
        return self
