"""What a vLLM server answers, read at msgspec's speed.

To /v1/completions with prompt_logprobs it sends one JSON object per candidate per token. Typed decoding builds one
small struct for each, numpy does the rest: about four times as fast as `json.loads` and loops.
"""

from itertools import chain
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gkd_dist.errors import EngineError, RejectedError
from gkd_dist.teachers.prompt_log_probs import PromptLogProbs


class _Entry(msgspec.Struct, gc=False):
    logprob: float
    rank: int


class _Choice(msgspec.Struct):
    prompt_logprobs: list[dict[int, _Entry] | None] | None = None
    prompt_token_ids: list[int] | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]


class _Card(msgspec.Struct):
    id: str
    root: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Card]


_answers = msgspec.json.Decoder(_Answer)
_models = msgspec.json.Decoder(_Models)


class ServedModel(NamedTuple):
    """What a server says about a model."""

    root: str | None
    """What it was loaded from; None where the server does not say."""
    max_model_len: int | None
    """Longest sequence, prompt and completion; None where the server does not say."""


def read_models(content: bytes) -> dict[str, ServedModel]:
    """The served models by name.

    Raises:
        EngineError: it is no list of models.
    """
    try:
        return {card.id: ServedModel(card.root, card.max_model_len) for card in _models.decode(content).data}
    except (msgspec.DecodeError, ValueError) as error:
        raise EngineError(f"it did not answer as vLLM does: {_what(content, error)}") from error


def read_answer(
    content: bytes, token_ids: npt.NDArray[np.int32], *, num_completion_tokens: int, num_candidates: int
) -> PromptLogProbs:
    """What the server says about the last tokens of its prompt.

    Args:
        content: the body, JSON in UTF-8.
        token_ids: [T] int32, the prompt that was sent.
        num_completion_tokens: L < T, how many of its last tokens count.
        num_candidates: K that was asked for.

    Raises:
        RejectedError: it is no such answer, or one to other tokens.
    """
    try:
        (choice,) = _answers.decode(content).choices
    except (msgspec.DecodeError, ValueError) as error:
        raise RejectedError(f"the teacher's server did not answer as vLLM does: {_what(content, error)}") from error
    if choice.prompt_logprobs is None or len(choice.prompt_logprobs) != token_ids.size:
        raise RejectedError(
            f"the teacher's server sent {len(choice.prompt_logprobs or ())} prompt_logprobs for {token_ids.size} "
            "tokens; it has to be `vllm serve`"
        )
    if choice.prompt_token_ids is not None and choice.prompt_token_ids != token_ids.tolist():
        raise RejectedError("the teacher's server scored other tokens than it was sent; it must not change prompts")
    rows = [row or {} for row in choice.prompt_logprobs[-num_completion_tokens:]]
    completion = token_ids[-num_completion_tokens:].tolist()
    try:
        chosen = [row[token_id].logprob for row, token_id in zip(rows, completion, strict=True)]
    except KeyError as error:
        raise RejectedError(f"the teacher's server left out the log-prob of its own prompt token {error}") from error
    return PromptLogProbs(np.array(chosen, dtype=np.float32), *_candidates(rows, num_candidates))


def _what(content: bytes, error: Exception) -> str:
    if content.lstrip().startswith(b"<"):
        return "it sent a web page; give the address of `vllm serve` in base_url, http://HOST:PORT/v1"
    return f"{error}; is it `vllm serve`?"


def _candidates(
    rows: list[dict[int, _Entry]], num_candidates: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Ids and log-probs [L, K], the most probable first.

    A row holds the token itself too; where that is not among the candidates, its rank is above K.
    """
    shape = (len(rows), num_candidates)
    entries = list(chain.from_iterable(row.values() for row in rows))
    ranks = np.array([entry.rank for entry in entries], dtype=np.int64)
    kept = ranks <= num_candidates
    of_row = np.repeat(np.arange(len(rows)), [len(row) for row in rows])[kept]
    if not np.array_equal(np.bincount(of_row, minlength=len(rows)), np.full(len(rows), num_candidates)):
        raise RejectedError(f"the teacher's server did not send {num_candidates} candidates for every token")
    order = np.lexsort((ranks[kept], of_row))
    token_ids = np.array(list(chain.from_iterable(rows)), dtype=np.int32)[kept][order]
    log_probs = np.array([entry.logprob for entry in entries], dtype=np.float32)[kept][order]
    return token_ids.reshape(shape), log_probs.reshape(shape)
