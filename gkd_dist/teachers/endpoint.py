"""Where a vLLM server is and how to ask it for prompt log-probs; retries are those of the OpenAI client."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, OpenAI

from gkd_dist.errors import ConfigError


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible vLLM server."""

    base_url: str
    """Usually ends in /v1."""
    api_key_env: str | None
    """Environment variable that holds the key; None sends none."""
    timeout_s: float
    """Longest wait for a connection, and for the server's next byte."""
    max_retries: int
    """After timeouts, lost or refused connections, 408, 409, 429 and 5xx; waits double from 0.5 s up to 8 s."""

    def client(self) -> OpenAI:
        return OpenAI(**self._settings())

    def async_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(**self._settings())

    def _settings(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "api_key": self._api_key(),
            "timeout": self.timeout_s,
            "max_retries": self.max_retries,
        }

    def _api_key(self) -> str:
        """Never the client's own default: $OPENAI_API_KEY is meant for another server."""
        if self.api_key_env is None:
            return "none"
        key = os.environ.get(self.api_key_env)
        if not key:
            raise ConfigError(
                [f"teacher.api_key_env: ${self.api_key_env} is not set where this teacher runs; export it there"]
            )
        return key

    @property
    def root(self) -> str:
        """Where vLLM's own endpoints are."""
        return self.base_url.rstrip("/").removesuffix("/v1")

    def explain(self, error: APIError) -> str:
        """One line that says what happened and what to do."""
        if isinstance(error, APIStatusError):
            hint = {401: "; name its key in teacher.api_key_env", 403: "; name its key in teacher.api_key_env"}
            return f"{self.base_url} answered {error.status_code}: {_message(error)}{hint.get(error.status_code, '')}"
        if isinstance(error, APIConnectionError):
            reason = error.__cause__ or error
            return (
                f"{self.base_url} does not answer ({type(reason).__name__}: {reason}); is `vllm serve` running there?"
            )
        return f"{self.base_url}: {_message(error)}"


def scoring_request(model: str, token_ids: Sequence[int], num_candidates: int) -> dict[str, Any]:
    """Arguments of `completions.create`; one token is generated, because vLLM generates at least one."""
    return {
        "model": model,
        "prompt": list(token_ids),
        "max_tokens": 1,
        "temperature": 0.0,
        "extra_body": {"prompt_logprobs": num_candidates, "return_token_ids": True},
    }


def _message(error: APIError) -> str:
    found = error.body.get("message") if isinstance(error.body, dict) else None
    return " ".join(str(found or error.message).split())
