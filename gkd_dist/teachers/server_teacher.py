"""The teacher behind a `vllm serve` somewhere else: token ids in, log-probs out."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openai import APIError, BadRequestError, UnprocessableEntityError

from gkd_dist.errors import EngineError, RejectedError
from gkd_dist.targets import TeacherTargets
from gkd_dist.teachers.answers import read_answer
from gkd_dist.teachers.endpoint import Endpoint, scoring_request
from gkd_dist.teachers.prompt_log_probs import PromptScoring
from gkd_dist.teachers.server_check import check_server
from gkd_dist.types import Trajectory


class ServerTeacher:
    """Implements `interfaces.Scorer` with the `topk` and `sampled` transports; overlapping calls share the server.

    One request per trajectory. Those that a restart of the server cuts off are sent again; see `Endpoint.max_retries`.

    Args:
        endpoint: the server.
        model: folder with the teacher's tokenizer, to compare the server's with.
        served_model_name: None takes the server's only model.
        max_model_len: longest prompt plus completion, tokens; the server needs room for one more.
        scoring: what is asked for and shipped.
        num_rows: ids that the model gives a probability.
        num_ids: the first of these that are real; the others are padding.
        max_concurrent_requests: of this teacher.
        deadline_s: of one call of `score`, whatever it takes: requests that queue here, all attempts, and waits.

    Raises:
        ConfigError: the server is not there, or is not one that can play this teacher.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        model: str | Path,
        served_model_name: str | None,
        max_model_len: int,
        scoring: PromptScoring,
        num_rows: int,
        num_ids: int,
        max_concurrent_requests: int,
        deadline_s: float,
    ) -> None:
        self._model = check_server(
            endpoint,
            model=model,
            served_model_name=served_model_name,
            max_model_len=max_model_len,
            scoring=scoring,
            num_rows=num_rows,
            num_ids=num_ids,
        )
        self._endpoint = endpoint
        self._scoring = scoring
        self._client = endpoint.async_client()
        self._deadline_s = deadline_s
        self._room = asyncio.Semaphore(max_concurrent_requests)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        """TopKTargets or SampledTargets; see `interfaces.Scorer.score`.

        Raises:
            RejectedError: the server refuses a request (it is too long, say), or answered another.
            EngineError: the server refused to work, or stayed away for longer than the retries or the deadline last.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                return list(await asyncio.gather(*(self._score_one(trajectory) for trajectory in trajectories)))
        except TimeoutError:
            raise EngineError(
                f"teacher server {self._endpoint.base_url} did not score {len(trajectories)} sequences within "
                f"{self._deadline_s:g} s, all attempts included; is it up? raise cluster.request_timeout_s, or lower "
                f"{self._endpoint.key}.request_timeout_s for attempts that give up sooner"
            ) from None

    async def _score_one(self, trajectory: Trajectory) -> TeacherTargets:
        token_ids = np.concatenate([trajectory.prompt_ids, trajectory.completion_ids])
        request = scoring_request(self._model, token_ids.tolist(), self._scoring.num_candidates)
        try:
            async with self._room:
                content = await self._answer(request)
        except (BadRequestError, UnprocessableEntityError) as error:
            raise RejectedError(f"teacher server {self._endpoint.explain(error)}") from error
        except APIError as error:
            raise EngineError(f"teacher server {self._endpoint.explain(error)}") from error
        found = read_answer(
            content,
            token_ids,
            num_completion_tokens=trajectory.num_completion_tokens,
            num_candidates=self._scoring.num_candidates,
        )
        return self._scoring.targets(found)

    async def _answer(self, request: dict[str, Any]) -> bytes:
        """The body of one answer; the client tries again after all failures but an answer that takes too long."""
        for _ in range(self._endpoint.max_retries + 1):
            try:
                return (await self._client.completions.with_raw_response.create(**request)).content
            except TimeoutError:
                continue
        raise EngineError(
            f"teacher server {self._endpoint.base_url} gave no whole answer within {self._endpoint.timeout_s:g} s, in "
            f"{self._endpoint.max_retries + 1} attempts; raise {self._endpoint.key}.request_timeout_s"
        )

    async def ping(self) -> None:
        """See `interfaces.Scorer.ping`."""
        await asyncio.to_thread(self._endpoint.check_health)

    async def close(self) -> None:
        await self._client.close()
