"""The student on vLLM: AsyncLLM in this process, continuous batching, token ids in and out."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from vllm import SamplingParams as EngineParams
from vllm import TokensPrompt
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from gkd_dist.config.lora import LoraConfig
from gkd_dist.errors import ConfigError, EngineError, RejectedError
from gkd_dist.samplers.seeds import sample_seed
from gkd_dist.samplers.weight_updates import WeightUpdates
from gkd_dist.types import (
    FinishReason,
    Prompt,
    SamplingParams,
    Source,
    Trajectory,
    VersionRange,
    WeightManifest,
    WeightPublication,
)
from gkd_dist.weights import vllm_receiver
from gkd_dist.weights.shared_memory import SharedSegment, sweep
from gkd_dist.weights.subscription import Subscription
from gkd_dist.weights.vllm_adapters import EngineAdapter

_CPU_ARGS: dict[str, Any] = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 1 << 30,
    # In the engine's own process: the default, a worker process beside it, burns a core waiting for its answers.
    "distributed_executor_backend": UniProcExecutor,
    # A prompt cut in two makes vLLM rewind its request's random generator, which a CPU generator cannot do.
    "enable_chunked_prefill": False,
}
_MIN_BATCHED_TOKENS = 4096


class VllmSampler:
    """Implements `interfaces.Sampler`; requests of overlapping calls share the engine's batch.

    Ordering: results follow the prompts. Cancellation aborts the requests. A dead engine raises EngineError.

    Args:
        model: local folder in Hugging Face format.
        dtype: `float32` or `bfloat16`.
        max_model_len: longest prompt plus completion, tokens.
        engine_args: passed to vLLM untouched, over the defaults here.
        num_ids: ids the tokenizer knows; rows of the head beyond them are padding and never sampled. None: all rows.
        adapter: what is published is this low-rank adapter of `model`; None means whole weights.
        policy_version: version of the weights in `model`.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_model_len: int,
        engine_args: Mapping[str, Any],
        num_ids: int | None,
        adapter: LoraConfig | None = None,
        policy_version: int = 0,
    ) -> None:
        # Raw engine threads, not a core each: on small machines the roles take turns on all cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        vllm_receiver.register()
        sweep()
        self._adapter = EngineAdapter(model, adapter) if adapter is not None else None
        whole_prompts = {"max_num_batched_tokens": max(max_model_len, _MIN_BATCHED_TOKENS)}
        defaults = _CPU_ARGS | whole_prompts if current_platform.is_cpu() else {}
        args = {
            "dtype": dtype,
            "max_model_len": max_model_len,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs",
            "disable_log_stats": True,
            "weight_transfer_config": WeightTransferConfig(backend=vllm_receiver.BACKEND),
            **(self._adapter.engine_args if self._adapter is not None else {}),
            **defaults,
            **engine_args,
        }
        unknown = sorted(args.keys() - {field.name for field in fields(AsyncEngineArgs)})
        if unknown:
            raise ConfigError([f"sampler.engine_args.{name}: vLLM has no such engine argument" for name in unknown])
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **args))
        shapes = self._adapter.shapes if self._adapter is not None else _published_shapes(model)
        self._subscription = Subscription(shapes, policy_version)
        self._updates = WeightUpdates(self._engine, self._subscription, self._swap)
        self._padding_bias = _padding_bias(model, num_ids)
        self._num_requests = 0
        self._transfer_ready = False

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        """One trajectory per prompt, in order; see `interfaces.Sampler.sample`."""
        if self._updates.weights_lost:
            raise EngineError("this sampler holds no complete weights since a failed update; restart it")
        return list(await asyncio.gather(*(self._sample_one(prompt, params) for prompt in prompts)))

    async def _sample_one(self, prompt: Prompt, params: SamplingParams) -> Trajectory:
        oldest = self._subscription.version
        self._num_requests += 1
        request_id = f"{prompt.sample_id}#{self._num_requests}"
        stream = self._engine.generate(
            TokensPrompt(prompt_token_ids=prompt.token_ids.tolist()),
            _engine_params(params, sample_seed(params.seed, prompt.sample_id), self._padding_bias),
            request_id,
            lora_request=self._adapter.request if self._adapter is not None else None,
        )
        last = await _last_output(stream, request_id)
        completion = last.outputs[0]
        if completion.finish_reason not in ("stop", "length"):
            raise EngineError(f"the engine ended {request_id} with {completion.finish_reason!r}")
        return Trajectory(
            sample_id=prompt.sample_id,
            prompt_ids=prompt.token_ids,
            completion_ids=np.asarray(completion.token_ids, dtype=np.int32),
            source=Source.STUDENT,
            finish_reason=FinishReason(completion.finish_reason),
            behaviour_log_probs=_chosen_log_probs(completion),
            versions=VersionRange(oldest, self._subscription.version),
        )

    async def load_weights(self, publication: WeightPublication) -> int:
        """Pause between two tokens, swap the weights, go on; requests in flight are kept.

        Raises:
            WeightsError: the publication is damaged, stale, or not made for this model: the former weights stay.
        """
        await self._updates.run(publication)
        return publication.manifest.version

    async def _swap(self, manifest: WeightManifest, segment: SharedSegment) -> None:
        if self._adapter is not None:
            await self._adapter.load(self._engine, manifest, segment)
        else:
            await self._swap_weights(manifest, segment)
        await self._engine.reset_prefix_cache()

    async def _swap_weights(self, manifest: WeightManifest, segment: SharedSegment) -> None:
        if not self._transfer_ready:
            await self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))
            self._transfer_ready = True
        info = vllm_receiver.update_info(manifest, segment)
        await self._engine.start_weight_update()
        await self._engine.update_weights(WeightTransferUpdateRequest(update_info=info))
        await self._engine.finish_weight_update()

    async def ping(self) -> None:
        """See `interfaces.Sampler.ping`; vLLM watches the engine's process and knows whether it ended."""
        try:
            await self._engine.check_health()
        except EngineDeadError as error:
            raise EngineError("the vLLM engine died; the process that held it did not") from error

    async def close(self) -> None:
        self._engine.shutdown()
        if self._adapter is not None:
            self._adapter.close()


async def _last_output(stream: AsyncIterator[Any], request_id: str) -> Any:
    """The end of one request.

    Raises:
        RejectedError: the engine takes no such request: it is too long, say.
        EngineError: the engine died, failed, or said nothing.
    """
    last = None
    try:
        async for output in stream:
            last = output
    except (VLLMClientError, ValueError) as error:
        raise RejectedError(f"the vLLM engine refuses {request_id}: {error}") from error
    except (EngineDeadError, EngineGenerateError) as error:
        if isinstance(error.__cause__, ValueError):
            raise RejectedError(f"the vLLM engine refuses {request_id}: {error.__cause__}") from error
        raise EngineError(f"the vLLM engine failed at {request_id} ({type(error).__name__}: {error})") from error
    if last is None:
        raise EngineError(f"the engine returned nothing for {request_id}")
    return last


def _engine_params(params: SamplingParams, seed: int, logit_bias: dict[int, float] | None) -> EngineParams:
    return EngineParams(
        max_tokens=params.max_new_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        logit_bias=logit_bias,
        seed=seed,
        stop_token_ids=list(params.stop_token_ids),
        ignore_eos=True,
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _chosen_log_probs(completion: Any) -> np.ndarray:
    """[L] float32 log-probs of the tokens that were chosen."""
    pairs = zip(completion.token_ids, completion.logprobs, strict=True)
    return np.asarray([position[token].logprob for token, position in pairs], dtype=np.float32)


def _padding_bias(model: str, num_ids: int | None) -> dict[int, float] | None:
    """Leaves the padded rows of a head 1e-44 of their probability; None for the usual model, which has no such rows.

    Of vLLM's ways to forbid an id this one works in all its model runners and costs nothing per real id.
    """
    num_rows = AutoConfig.from_pretrained(model).get_text_config().vocab_size
    if num_ids is None or num_rows <= num_ids:
        return None
    return dict.fromkeys(range(num_ids, num_rows), -100.0)


def _published_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """What a learner of this model publishes: its parameters by checkpoint name, tied ones once."""
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return {name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters()}
