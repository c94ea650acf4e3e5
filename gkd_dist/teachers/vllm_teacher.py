"""The teacher on vLLM's pooling runner: exact hidden states after the final norm, without the LM head."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from vllm import PoolingParams, TokensPrompt
from vllm.config import PoolerConfig

from gkd_dist.engines.vllm_engine import check_alive, last_output, start_engine
from gkd_dist.errors import RejectedError
from gkd_dist.targets import HiddenTargets, TeacherTargets
from gkd_dist.types import Trajectory


class VllmTeacher:
    """Implements `interfaces.Scorer` with the `hidden` transport.

    Only the positions that predict completion tokens are kept; the last token is never fed, since nothing needs
    its prediction. Overlapping calls share the engine's batch.

    Args:
        model: local folder in Hugging Face format.
        dtype: `float32` or `bfloat16`; targets are shipped in the same type.
        max_model_len: longest prompt plus completion, tokens.
        engine_args: passed to vLLM, over the defaults here; `hf_overrides` key by key.
    """

    def __init__(self, model: str, *, dtype: str, max_model_len: int, engine_args: Mapping[str, Any]) -> None:
        args = {
            "dtype": dtype,
            "max_model_len": max_model_len,
            # A cached prefix would come back without its hidden states.
            "enable_prefix_caching": False,
            "runner": "pooling",
            "convert": "embed",
            "pooler_config": PoolerConfig(task="token_embed", use_activation=False),
        }
        self._engine = start_engine(model, args, engine_args, section="teacher")
        self._params = PoolingParams(task="token_embed", use_activation=False)
        self._bfloat16 = dtype == "bfloat16"
        self._num_requests = 0

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        """HiddenTargets; see `interfaces.Scorer.score`."""
        return list(await asyncio.gather(*(self._score_one(trajectory) for trajectory in trajectories)))

    async def _score_one(self, trajectory: Trajectory) -> HiddenTargets:
        tokens = np.concatenate([trajectory.prompt_ids, trajectory.completion_ids[:-1]])
        self._num_requests += 1
        request_id = f"{trajectory.sample_id}#{self._num_requests}"
        stream = self._engine.encode(TokensPrompt(prompt_token_ids=tokens.tolist()), self._params, request_id)
        last = await last_output(stream, request_id)
        hidden = last.outputs.data
        if hidden.shape[0] != tokens.size:
            raise RejectedError(f"the engine returned {hidden.shape[0]} hidden states for {tokens.size} tokens")
        kept = hidden[trajectory.prompt_ids.size - 1 :]
        return HiddenTargets(self._pack(kept))

    def _pack(self, hidden: torch.Tensor) -> np.ndarray:
        """[L, H] as float32, or as the bits of bfloat16."""
        if self._bfloat16:
            return hidden.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
        return hidden.to(torch.float32).contiguous().numpy()

    async def ping(self) -> None:
        """See `interfaces.Sampler.ping`; vLLM watches the engine's process and knows whether it ended."""
        await check_alive(self._engine)

    async def close(self) -> None:
        self._engine.shutdown()
