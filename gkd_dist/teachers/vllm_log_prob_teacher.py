"""The teacher on vLLM's generation runner: log-probs of the tokens it is given, with or without candidates."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import AutoConfig
from vllm import SamplingParams as EngineParams
from vllm import TokensPrompt
from vllm.logprobs import FlatLogprobs
from vllm.sampling_params import RequestOutputKind

from gkd_dist.engines.vllm_engine import check_alive, last_output, start_engine
from gkd_dist.errors import RejectedError
from gkd_dist.targets import TeacherTargets
from gkd_dist.teachers.prompt_log_probs import PromptLogProbs, PromptScoring
from gkd_dist.teachers.vocabulary_cut import EXTENSION, METHOD
from gkd_dist.types import Trajectory

_LOGITS_BYTES = 1 << 30
"""Per engine step on CPU, where vLLM keeps the logits of a whole step, and a few copies of them, at once."""
_NUM_COPIES = 4
_MIN_STEP_TOKENS, _MAX_STEP_TOKENS = 256, 4096


class VllmLogProbTeacher:
    """Implements `interfaces.Scorer` with the `topk` and `sampled` transports; overlapping calls share a batch.

    vLLM projects the positions of the prompt as well as those of the completion; only the latter are shipped. Logits
    are computed in float32 and normalised over the real ids alone.

    Args:
        model: local folder in Hugging Face format.
        dtype: `float32` or `bfloat16`, of the body.
        max_model_len: longest prompt plus completion, tokens. The model has to have one position more: vLLM ends every
            request with a generated token.
        scoring: what is asked for and shipped.
        num_ids: real ids; rows of the head beyond them are padding.
        engine_args: passed to vLLM, over the defaults here; `hf_overrides` key by key.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_model_len: int,
        scoring: PromptScoring,
        num_ids: int,
        engine_args: Mapping[str, Any],
    ) -> None:
        num_rows = AutoConfig.from_pretrained(model).get_text_config().vocab_size
        args = {
            "dtype": dtype,
            "max_model_len": max_model_len + 1,
            # A cached prefix would come back without its log-probs.
            "enable_prefix_caching": False,
            "generation_config": "vllm",
            "logprobs_mode": "raw_logprobs",
            "max_logprobs": scoring.num_candidates,
            # Logits of bfloat16 are wrong in the second digit.
            "hf_overrides": {"head_dtype": "float32"},
            "worker_extension_cls": EXTENSION,
        }
        step_tokens = min(max(_LOGITS_BYTES // (4 * _NUM_COPIES * num_rows), _MIN_STEP_TOKENS), _MAX_STEP_TOKENS)
        self._engine = start_engine(
            model, args, engine_args, section="teacher", cpu_args={"max_num_batched_tokens": step_tokens}
        )
        self._scoring = scoring
        self._params = EngineParams(
            max_tokens=1,
            temperature=0.0,
            ignore_eos=True,
            prompt_logprobs=scoring.num_candidates,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._num_requests = 0
        self._num_ids = num_ids
        self._is_cut = num_rows <= num_ids
        self._cutting = asyncio.Lock()

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets]:
        """TopKTargets or SampledTargets; see `interfaces.Scorer.score`."""
        async with self._cutting:
            if not self._is_cut:
                await self._engine.collective_rpc(METHOD, args=(self._num_ids,))
                self._is_cut = True
        return list(await asyncio.gather(*(self._score_one(trajectory) for trajectory in trajectories)))

    async def _score_one(self, trajectory: Trajectory) -> TeacherTargets:
        tokens = np.concatenate([trajectory.prompt_ids, trajectory.completion_ids])
        self._num_requests += 1
        request_id = f"{trajectory.sample_id}#{self._num_requests}"
        stream = self._engine.generate(TokensPrompt(prompt_token_ids=tokens.tolist()), self._params, request_id)
        last = await last_output(stream, request_id)
        return self._scoring.targets(self._found(last.prompt_logprobs, trajectory))

    def _found(self, flat: FlatLogprobs, trajectory: Trajectory) -> PromptLogProbs:
        """The completion's rows of vLLM's answer: per token itself, then the candidates, the most probable first."""
        width = 1 + self._scoring.num_candidates
        num_tokens = trajectory.num_completion_tokens
        if len(flat.token_ids) != (trajectory.num_tokens - 1) * width:
            raise RejectedError(
                f"the engine returned {len(flat.token_ids)} log-probs for {trajectory.num_tokens - 1} tokens at {width}"
            )
        token_ids = np.array(flat.token_ids[-num_tokens * width :], dtype=np.int32).reshape(num_tokens, width)
        log_probs = np.array(flat.logprobs[-num_tokens * width :], dtype=np.float32).reshape(num_tokens, width)
        if not np.array_equal(token_ids[:, 0], trajectory.completion_ids):
            raise RejectedError(f"the engine scored other tokens than those of {trajectory.sample_id}")
        return PromptLogProbs(log_probs[:, 0], token_ids[:, 1:], log_probs[:, 1:])

    async def ping(self) -> None:
        """See `interfaces.Sampler.ping`; vLLM watches the engine's process and knows whether it ended."""
        await check_alive(self._engine)

    async def close(self) -> None:
        self._engine.shutdown()
