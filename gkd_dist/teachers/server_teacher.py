"""The teacher behind a `vllm serve` somewhere else: token ids in, log-probs out."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from openai import APIError

from gkd_dist.errors import EngineError
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
        max_concurrent_requests: of this teacher.

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
        max_concurrent_requests: int,
    ) -> None:
        self._model = check_server(
            endpoint,
            model=model,
            served_model_name=served_model_name,
            max_model_len=max_model_len,
            scoring=scoring,
        )
        self._endpoint = endpoint
        self._scoring = scoring
        self._client = endpoint.async_client()
        self._room = asyncio.Semaphore(max_concurrent_requests)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        """TopKTargets or SampledTargets; see `interfaces.Scorer.score`.

        Raises:
            EngineError: the server refused a request, or stayed away for longer than the retries last.
        """
        return list(await asyncio.gather(*(self._score_one(trajectory) for trajectory in trajectories)))

    async def _score_one(self, trajectory: Trajectory) -> TeacherTargets:
        token_ids = np.concatenate([trajectory.prompt_ids, trajectory.completion_ids])
        request = scoring_request(self._model, token_ids.tolist(), self._scoring.num_candidates)
        try:
            async with self._room:
                answer = await self._client.completions.with_raw_response.create(**request)
        except APIError as error:
            raise EngineError(f"teacher server {self._endpoint.explain(error)}") from error
        found = read_answer(
            answer.content,
            token_ids,
            num_completion_tokens=trajectory.num_completion_tokens,
            num_candidates=self._scoring.num_candidates,
        )
        return self._scoring.targets(found)

    async def close(self) -> None:
        await self._client.close()
