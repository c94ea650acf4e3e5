"""Where a vLLM server is and how to ask it for prompt log-probs; retries are those of the OpenAI client."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient, OpenAI

from gkd_dist.errors import ConfigError, EngineError

_HEALTH_TIMEOUT_S = 5.0


class _WholeAnswers(DefaultAsyncHttpxClient):
    """Its own timeouts restart with every byte, so that a server that dribbles would never run into them.

    Args:
        timeout_s: of each attempt, the whole answer included; then `send` raises TimeoutError, which the OpenAI client
            does not try again.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    async def send(self, request: Any, **settings: Any) -> Any:
        async with asyncio.timeout(self._timeout_s):
            response = await super().send(request, **settings)
            await response.aread()
            return response


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible vLLM server."""

    base_url: str
    """Usually ends in /v1."""
    api_key_env: str | None
    """Environment variable that holds the key; None sends none."""
    timeout_s: float
    """Of one attempt, answer included. (The client that asks once at the start: of the connection and of each byte.)"""
    max_retries: int
    """After timeouts, lost or refused connections, 408, 409, 429 and 5xx; waits double from 0.5 s up to 8 s."""
    key: str = "teacher"
    """Where the settings of this teacher stand, for messages."""

    def client(self) -> OpenAI:
        return OpenAI(**self._settings())

    def async_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(**self._settings(), http_client=_WholeAnswers(self.timeout_s))

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
                [f"{self.key}.api_key_env: ${self.api_key_env} is not set where this teacher runs; export it there"]
            )
        return key

    @property
    def root(self) -> str:
        """Where vLLM's own endpoints are."""
        return self.base_url.rstrip("/").removesuffix("/v1")

    def check_health(self) -> None:
        """Ask vLLM's own /health, which says whether its engine lives. A server that has no such page answers, too.

        Raises:
            EngineError: no answer, or an error of the server's.
        """
        try:
            with urlopen(f"{self.root}/health", timeout=min(self.timeout_s, _HEALTH_TIMEOUT_S)):  # noqa: S310 - base_url is http or https
                return
        except HTTPError as error:
            if error.code < 500:
                return
            raise EngineError(f"teacher server {self.root}/health answered {error.code}") from error
        except OSError as error:
            raise EngineError(f"teacher server {self.root}/health does not answer: {error}") from error

    @property
    def address_hint(self) -> str:
        """What may be wrong with the address itself; empty where nothing meets the eye."""
        if self.base_url.rstrip("/").endswith("/v1"):
            return ""
        return f"; {self.key}.base_url does not end in /v1: is it {self.root}/v1?"

    def explain(self, error: APIError) -> str:
        """One line that says what happened and what to do."""
        if isinstance(error, APIStatusError):
            return f"{self.base_url} answered {error.status_code}: {_message(error)}{self._hint(error.status_code)}"
        if isinstance(error, APIConnectionError):
            reason = error.__cause__ or error
            return (
                f"{self.base_url} does not answer ({type(reason).__name__}: {reason}); is `vllm serve` running there?"
            )
        return f"{self.base_url}: {_message(error)}"

    def _hint(self, status: int) -> str:
        if status in (401, 403) and self.api_key_env is None:
            return f"; name the environment variable with its key in {self.key}.api_key_env"
        if status in (401, 403):
            return f"; the key in ${self.api_key_env} ({self.key}.api_key_env) is not one it takes; export another"
        return self.address_hint if status in (404, 405) else ""


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
    """What the server said, in one line; servers between us and vLLM say it in a web page."""
    found = error.body.get("message") if isinstance(error.body, dict) else None
    text = " ".join(str(found or error.message).split())
    return "a web page; something other than vLLM answers there" if text.startswith("<") else text
