"""Whether a server can play the teacher, asked before the first sample is scored."""

import logging
from pathlib import Path

import numpy as np
from openai import APIConnectionError, APIError, APIStatusError, NotFoundError, OpenAI
from transformers import AutoTokenizer

from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.teachers.answers import read_answer, read_models
from gkd_dist.teachers.endpoint import Endpoint, scoring_request
from gkd_dist.teachers.prompt_log_probs import PromptScoring

logger = logging.getLogger(__name__)

_PROBE = "In 1987, Zo\u00eb paid 3.50 \u20ac for two apples: \u65e5\u672c\u8a9e, na\u00efve?\n\tdef f(x): return x ** 2"
_MAX_RETRIES = 3
"""While asking for the list of models: about 4 seconds."""
_MIN_CANDIDATES = 8
"""Asked for even where the transport needs none, to see that they are log-probs."""


def check_server(
    endpoint: Endpoint, *, model: str | Path, served_model_name: str | None, max_model_len: int, scoring: PromptScoring
) -> str:
    """The name of the served model, once it has answered a probe as this teacher has to.

    Args:
        model: folder with the tokenizer that the server's has to agree with.
        served_model_name: None takes the only model.
        max_model_len: longest sequence that will be scored, tokens.

    Raises:
        ConfigError: no server, no such model, too little room, too few candidates, other tokens, or no log-probs.
    """
    with endpoint.client() as client:
        name, longest = _served(client, endpoint, served_model_name)
        if longest is not None and longest <= max_model_len:
            raise ConfigError(
                [
                    f"teacher.max_model_len: {max_model_len} tokens and the one that vLLM generates do not fit into "
                    f"the server's {longest}; start it with --max-model-len {max_model_len + 1}, or lower it here"
                ]
            )
        probe = AutoTokenizer.from_pretrained(model).encode(_PROBE, add_special_tokens=False)
        _check_tokens(client, endpoint, name, probe)
        _check_answer(client, endpoint, name, probe[:max_model_len], scoring)
    return name


def _served(client: OpenAI, endpoint: Endpoint, wanted: str | None) -> tuple[str, int | None]:
    """(name, longest sequence or None where the server does not say) of the model to use."""
    try:
        answer = client.with_options(max_retries=_MAX_RETRIES).models.with_raw_response.list()
        lengths = read_models(answer.content)
    except APIError as error:
        raise ConfigError([f"teacher.base_url: {endpoint.explain(error)}"]) from error
    except EngineError as error:
        raise ConfigError([f"teacher.base_url: {endpoint.base_url}: {error}"]) from error
    names = ", ".join(lengths) or "none"
    if wanted is None and len(lengths) != 1:
        raise ConfigError([f"teacher.served_model_name: needed, because the server has several models; it has {names}"])
    name = wanted or next(iter(lengths))
    if name not in lengths:
        raise ConfigError([f"teacher.served_model_name: the server has no model {name}; it has {names}"])
    return name, lengths[name]


def _check_tokens(client: OpenAI, endpoint: Endpoint, name: str, probe: list[int]) -> None:
    body = {"model": name, "prompt": _PROBE, "add_special_tokens": False}
    try:
        answer = client.post(f"{endpoint.root}/tokenize", cast_to=object, body=body)
    except NotFoundError:
        logger.warning("%s has no /tokenize: its tokenizer could not be compared with teacher.model's", endpoint.root)
        return
    except APIError as error:
        raise ConfigError([f"teacher.base_url: {endpoint.explain(error)}"]) from error
    found = answer.get("tokens") if isinstance(answer, dict) else None
    if found != probe:
        raise ConfigError(
            [
                f"teacher.model: its tokenizer makes {probe[:8]}... of a text of which the server's makes "
                f"{(found or [])[:8]}...; name the model that the server runs"
            ]
        )


def _check_answer(client: OpenAI, endpoint: Endpoint, name: str, probe: list[int], scoring: PromptScoring) -> None:
    num_candidates = max(scoring.num_candidates, _MIN_CANDIDATES)
    try:
        answer = client.completions.with_raw_response.create(**scoring_request(name, probe, num_candidates))
    except APIConnectionError as error:
        raise ConfigError([f"teacher.base_url: {endpoint.explain(error)}"]) from error
    except APIStatusError as error:
        raise ConfigError(
            [
                f"teacher.base_url: {endpoint.explain(error)} (asked for {num_candidates} candidates per token; "
                f"`vllm serve --max-logprobs {num_candidates}` allows them, and teacher.top_k asks for fewer)"
            ]
        ) from error
    try:
        found = read_answer(
            answer.content,
            np.array(probe, dtype=np.int32),
            num_completion_tokens=len(probe) - 1,
            num_candidates=num_candidates,
        )
        scoring.targets(found)
    except EngineError as error:
        raise ConfigError([f"teacher.base_url: {error}"]) from error
