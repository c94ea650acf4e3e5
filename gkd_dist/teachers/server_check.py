"""Whether a server can play the teacher, asked before the first sample is scored."""

import logging
from pathlib import Path

import numpy as np
from openai import APIConnectionError, APIError, APIStatusError, NotFoundError, OpenAI
from transformers import AutoTokenizer

from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.teachers.answers import read_answer, read_models
from gkd_dist.teachers.endpoint import Endpoint, scoring_request
from gkd_dist.teachers.prompt_log_probs import PromptLogProbs, PromptScoring, check_mass

logger = logging.getLogger(__name__)

_PROBE = "In 1987, Zo\u00eb paid 3.50 \u20ac for two apples: \u65e5\u672c\u8a9e, na\u00efve?\n\tdef f(x): return x ** 2"
_MAX_RETRIES = 3
"""While asking for the list of models: about 4 seconds."""
_MIN_CANDIDATES = 8
"""Asked for even where the transport needs none, to see that they are log-probs."""
_NUM_PADDED = 8
"""How many padded ids stand for all: rows that were never trained are much alike."""
_NEGLIGIBLE_MASS = 1e-3
"""Of padded ids together: it is also the error of every log-prob, in nats."""


def check_server(
    endpoint: Endpoint,
    *,
    model: str | Path,
    served_model_name: str | None,
    max_model_len: int,
    scoring: PromptScoring,
    num_rows: int,
    num_ids: int,
) -> str:
    """The name of the served model, once it has answered a probe as this teacher has to.

    Args:
        model: folder with the tokenizer that the server's has to agree with.
        served_model_name: None takes the only model.
        max_model_len: longest sequence that will be scored, tokens.
        num_rows: ids that the model gives a probability.
        num_ids: the first of these that are real; the others are padding.

    Raises:
        ConfigError: no server, no such model, too little room, too few candidates, other tokens, no log-probs, or
            too much probability of padding that the targets would not show.
    """
    with endpoint.client() as client:
        name, longest = _served(client, endpoint, served_model_name)
        if longest is not None and longest <= max_model_len:
            raise ConfigError(
                [
                    f"{endpoint.key}.max_model_len: {max_model_len} tokens and the one that vLLM generates do not fit "
                    f"into the server's {longest}; start it with --max-model-len {max_model_len + 1}, or lower it here"
                ]
            )
        probe = AutoTokenizer.from_pretrained(model).encode(_PROBE, add_special_tokens=False)
        _check_tokens(client, endpoint, name, probe)
        _check_answer(client, endpoint, name, probe[:max_model_len], scoring, num_rows)
        if scoring.hides_padding and num_rows > num_ids:
            _check_padding(client, endpoint, name, probe[: max_model_len - 1], num_rows, num_ids)
    return name


def find_model(endpoint: Endpoint, served_model_name: str | None) -> str:
    """The name of the served model; nothing is scored.

    Raises:
        ConfigError: no server, or no such model.
    """
    with endpoint.client() as client:
        return _served(client, endpoint, served_model_name)[0]


def _served(client: OpenAI, endpoint: Endpoint, wanted: str | None) -> tuple[str, int | None]:
    """(name, longest sequence or None where the server does not say) of the model to use."""
    try:
        answer = client.with_options(max_retries=_MAX_RETRIES).models.with_raw_response.list()
        models = read_models(answer.content)
    except APIError as error:
        raise ConfigError([f"{endpoint.key}.base_url: {endpoint.explain(error)}"]) from error
    except EngineError as error:
        raise ConfigError([f"{endpoint.key}.base_url: {endpoint.base_url}: {error}{endpoint.address_hint}"]) from error
    names = ", ".join(models) or "none"
    if wanted is None and len(models) != 1:
        raise ConfigError(
            [f"{endpoint.key}.served_model_name: needed, because the server has several models; it has {names}"]
        )
    name = wanted or next(iter(models))
    if name not in models:
        raise ConfigError([f"{endpoint.key}.served_model_name: the server has no model {name}; it has {names}"])
    found = models[name]
    logger.info("%s: %s serves %s, loaded from %s", endpoint.key, endpoint.base_url, name, found.root or "?")
    return name, found.max_model_len


def _check_tokens(client: OpenAI, endpoint: Endpoint, name: str, probe: list[int]) -> None:
    body = {"model": name, "prompt": _PROBE, "add_special_tokens": False}
    try:
        answer = client.post(f"{endpoint.root}/tokenize", cast_to=object, body=body)
    except NotFoundError:
        logger.warning(
            "%s has no /tokenize: its tokenizer could not be compared with %s.model's", endpoint.root, endpoint.key
        )
        return
    except APIError as error:
        raise ConfigError([f"{endpoint.key}.base_url: {endpoint.explain(error)}"]) from error
    found = answer.get("tokens") if isinstance(answer, dict) else None
    if found != probe:
        raise ConfigError(
            [
                f"{endpoint.key}.model: its tokenizer makes {probe[:8]}... of a text of which the server's makes "
                f"{(found or [])[:8]}...; name the model that the server runs"
            ]
        )


def _check_answer(
    client: OpenAI, endpoint: Endpoint, name: str, probe: list[int], scoring: PromptScoring, num_rows: int
) -> None:
    num_candidates = max(scoring.num_candidates, _MIN_CANDIDATES)
    found = _asked(client, endpoint, name, probe, num_candidates)
    try:
        check_mass(found, num_rows)
        scoring.targets(found)
    except EngineError as error:
        raise ConfigError([f"{endpoint.key}.base_url: {error}"]) from error


def _check_padding(
    client: OpenAI, endpoint: Endpoint, name: str, probe: list[int], num_rows: int, num_ids: int
) -> None:
    """The probability of all padded ids, from some of them written after the probe and after parts of it.

    A server leaves no id out of its softmax, and the log-prob of one token cannot be normalised without them.
    """
    padded = np.unique(np.linspace(num_ids, num_rows - 1, _NUM_PADDED).astype(int)).tolist()
    masses = []
    for context in (probe[:length] for length in {1, -(-len(probe) // 2), len(probe)}):
        log_probs = [_asked(client, endpoint, name, [*context, token], 0).chosen[-1] for token in padded]
        masses.append(float(np.exp(log_probs).mean()) * (num_rows - num_ids))
    if max(masses) > _NEGLIGIBLE_MASS:
        raise ConfigError(
            [
                f"{endpoint.key}.transport=sampled: this model gives the {num_rows - num_ids} ids that no tokenizer "
                f"knows a probability of about {max(masses):.2g}, which a server cannot leave out; use "
                "transport=topk, or engine=vllm"
            ]
        )


def _asked(client: OpenAI, endpoint: Endpoint, name: str, tokens: list[int], num_candidates: int) -> PromptLogProbs:
    """What the server says about all of `tokens` but the first."""
    try:
        answer = client.completions.with_raw_response.create(**scoring_request(name, tokens, num_candidates))
    except APIConnectionError as error:
        raise ConfigError([f"{endpoint.key}.base_url: {endpoint.explain(error)}"]) from error
    except APIStatusError as error:
        raise ConfigError(
            [
                f"{endpoint.key}.base_url: {endpoint.explain(error)} (asked for {num_candidates} candidates per token; "
                f"`vllm serve --max-logprobs {num_candidates}` allows them, and {endpoint.key}.top_k asks for fewer)"
            ]
        ) from error
    try:
        return read_answer(
            answer.content,
            np.array(tokens, dtype=np.int32),
            num_completion_tokens=len(tokens) - 1,
            num_candidates=num_candidates,
        )
    except EngineError as error:
        raise ConfigError([f"{endpoint.key}.base_url: {error}"]) from error
