"""Text to token ids and back: the only caller of a tokenizer (floor F2).

Prompt and completion are tokenized apart, and the ids concatenated: tokens never straddle the boundary, so a
fixed completion begins where a sampled one would.
"""

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from gkd_dist.data.rows import Message, Row
from gkd_dist.errors import DataError, ModelError
from gkd_dist.types import IntArray

logger = logging.getLogger(__name__)

NUM_DIFFERENCES_SHOWN = 3
PROBE = "0 gkd probe 0"
"""Stands for an answer when we look for the token with which the chat template ends one."""


class Renderer:
    """Renders rows for one model.

    Args:
        model_path: local folder or hub name of the model whose tokenizer is used.
        apply_chat_template: True, False, or `auto`: where the tokenizer has a chat template.
        system_prompt: opens every conversation that has no system message of its own.

    Raises:
        ModelError: no tokenizer, no chat template where one is asked for, or no end-of-sequence token.
    """

    def __init__(
        self,
        model_path: str,
        *,
        apply_chat_template: bool | Literal["auto"] = "auto",
        system_prompt: str | None = None,
    ) -> None:
        self._path = model_path
        self._tokenizer: Any = _tokenizer(model_path)
        has_template = bool(self._tokenizer.chat_template)
        if apply_chat_template is True and not has_template:
            raise ModelError(
                f"data.apply_chat_template is true, but the tokenizer of {model_path} has no chat template; "
                "set it to false or choose an instruction-tuned model"
            )
        self.uses_chat_template = has_template and apply_chat_template is not False
        if system_prompt is not None and not self.uses_chat_template:
            raise ModelError(
                f"data.system_prompt needs a chat template, and none is used with {model_path}; "
                "put the text into the prompts instead"
            )
        self._system = (Message("system", system_prompt),) if system_prompt else ()
        stop_ids = _stop_token_ids(model_path, self._tokenizer)
        self.end_token_id = self._turn_end(stop_ids)
        """Appended to a fixed completion: what the model itself ends an answer with."""
        pad = self._tokenizer.pad_token_id
        self.pad_token_id: int = self.end_token_id if pad is None else pad
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys((*stop_ids, self.end_token_id)))
        """A sampled completion ends with the first of these."""
        self.num_ids: int = 1 + max(self._tokenizer.get_vocab().values())
        """Size of the real vocabulary: 1 + the highest id of a token. A model's logits may be padded beyond it."""

    def prompt_ids(self, row: Row) -> IntArray:
        """[P] int32. Text becomes one user message where a chat template is used, and stays text otherwise.

        Raises:
            DataError: the row holds messages and no chat template is used, or the template refuses them.
        """
        if self.uses_chat_template:
            messages = (Message("user", row.prompt),) if isinstance(row.prompt, str) else row.prompt
            return self._encode(self._templated(messages, add_generation_prompt=True))
        if not isinstance(row.prompt, str):
            raise DataError(
                f"the data set holds messages, but no chat template is used with {self._path}; "
                "choose an instruction-tuned model, or give prompts as text"
            )
        return self._encode(row.prompt, add_special_tokens=True)

    def completion_ids(self, row: Row) -> IntArray | None:
        """[L] int32, ends with a stop token; None where the row has no completion.

        The text is tokenized without special tokens and `end_token_id` appended. If the text itself spells a stop
        token, the completion ends there: what follows could never be sampled.
        """
        if row.completion is None:
            return None
        ids = self._encode(row.completion)
        stops = np.flatnonzero(np.isin(ids, self.stop_token_ids))
        if stops.size:
            return ids[: stops[0] + 1]
        return np.append(ids, np.int32(self.end_token_id))

    def without_system_prompt(self) -> "Renderer":
        """The same, for conversations that have nothing to do with the run's."""
        plain = copy.copy(self)
        plain._system = ()
        return plain

    @property
    def ordinary_ids(self) -> IntArray:
        """Ids [n] int32 of all tokens that stand for text, in order: none that is special, none without a token."""
        added = self._tokenizer.added_tokens_decoder
        special = {*self._tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
        return np.asarray(sorted(set(self._tokenizer.get_vocab().values()) - special), dtype=np.int32)

    def text_ids(self, text: str) -> IntArray:
        """[n] int32 of text inside a sequence: no special token is added."""
        return self._encode(text)

    def ids_containing(self, letters: str) -> tuple[int, ...]:
        """Ids of all tokens whose spelling contains these ASCII letters, in order."""
        return tuple(sorted(number for token, number in self._tokenizer.get_vocab().items() if letters in token))

    def decode(self, ids: Sequence[int] | IntArray) -> str:
        """The text of `ids`, without special tokens."""
        text = self._tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _encode(self, text: str, *, add_special_tokens: bool = False) -> IntArray:
        return np.asarray(self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"], dtype=np.int32)

    def _templated(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        if not any(message.role == "system" for message in messages):
            messages = (*self._system, *messages)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise DataError(f"the chat template of {self._path} refuses the roles {roles}: {error}") from error

    def _turn_end(self, stop_ids: tuple[int, ...]) -> int:
        """The stop token that follows an answer in the chat template, else the tokenizer's EOS, else the first."""
        eos = self._tokenizer.eos_token_id
        if self.uses_chat_template:
            turn = self._templated((Message("user", PROBE), Message("assistant", PROBE)), add_generation_prompt=False)
            stops = {*stop_ids, eos}
            for token_id in self._encode(turn.rpartition(PROBE)[2]):
                if int(token_id) in stops:
                    return int(token_id)
        return stop_ids[0] if eos is None else int(eos)


def check_same_tokenizer(student_path: str, teacher_path: str) -> int:
    """Number of real ids that student and teacher share; logits beyond it are padding.

    Token-to-id maps are compared, not sizes: two vocabularies of one size may differ, and padded ones may agree.
    Different chat templates are logged as a warning: prompts are rendered with the student's.

    Raises:
        ModelError: some id means different tokens, or is missing on one side; names the first such ids.
    """
    student, teacher = _tokenizer(student_path), _tokenizer(teacher_path)
    student_tokens, teacher_tokens = _tokens_by_id(student.get_vocab()), _tokens_by_id(teacher.get_vocab())
    differing = [
        token_id
        for token_id in sorted(student_tokens.keys() | teacher_tokens.keys())
        if student_tokens.get(token_id) != teacher_tokens.get(token_id)
    ]
    if differing:
        shown = "; ".join(
            f"id {token_id}: {_named(student_tokens, token_id)} in the student, "
            f"{_named(teacher_tokens, token_id)} in the teacher"
            for token_id in differing[:NUM_DIFFERENCES_SHOWN]
        )
        raise ModelError(
            f"the tokenizers of {student_path} and {teacher_path} differ at {len(differing)} ids ({shown}); "
            "the divergence compares id by id, so choose a student and a teacher of one tokenizer"
        )
    if student.chat_template != teacher.chat_template:
        logger.warning(
            "chat templates of %s and %s differ; prompts are rendered with the student's", student_path, teacher_path
        )
    return 1 + max(student_tokens)


def _tokens_by_id(vocabulary: Mapping[str, int]) -> dict[int, tuple[str, ...]]:
    """All tokens of each id: a few tokenizers give two spellings one id."""
    tokens: dict[int, tuple[str, ...]] = {}
    for token, token_id in sorted(vocabulary.items()):
        tokens[token_id] = (*tokens.get(token_id, ()), token)
    return tokens


def _named(tokens: Mapping[int, tuple[str, ...]], token_id: int) -> str:
    return " or ".join(map(repr, tokens[token_id])) if token_id in tokens else "missing"


def _tokenizer(model_path: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_path)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no tokenizer could be loaded from {model_path}: {error}") from error


def _stop_token_ids(model_path: str, tokenizer: Any) -> tuple[int, ...]:
    """EOS ids of the model's generation config where it names some, else the tokenizer's."""
    from transformers.utils import cached_file

    try:
        file = cached_file(model_path, "generation_config.json", _raise_exceptions_for_missing_entries=False)
    except OSError:
        file = None
    named: int | list[int] | None = None
    if file is not None:
        with open(file, encoding="utf-8") as lines:
            named = json.load(lines).get("eos_token_id")
    if named is None:
        named = tokenizer.eos_token_id
    if named is None or named == []:
        raise ModelError(
            f"{model_path} names no end-of-sequence token; set eos_token in its tokenizer configuration, "
            "or completions would never end"
        )
    return (named,) if isinstance(named, int) else tuple(named)
