"""The student on vLLM: AsyncLLM in this process, continuous batching, token ids in and out."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from vllm import SamplingParams as EngineParams
from vllm import TokensPrompt
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from gkd_dist.config.lora import LoraConfig
from gkd_dist.engines.vllm_engine import check_alive, last_output, pause_between_tokens, start_engine
from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.samplers.seeds import sample_seed
from gkd_dist.samplers.weight_updates import WeightUpdates, in_order
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

_MIN_BATCHED_TOKENS = 4096
_UNLABELLED = "default"
"""What vLLM calls the weights that it started with."""


class VllmSampler:
    """Implements `interfaces.Sampler`; requests of overlapping calls share the engine's batch.

    Ordering: results follow the prompts. Cancellation aborts the requests. A dead engine raises EngineError.

    Versions are exact: the engine labels every token with the weights that computed its probabilities, labels change
    while it is paused and idle, and a trajectory has those of its first and of its last token, whatever it waited for
    in between. A request begun after an update meets no keys and values of former weights. One that was in the
    engine meanwhile does, under `kv_cache="keep"`: in all that was read before. Where that may be a prefix of its
    prompt, taken from the cache, the range begins with the version at which the request was made. (A prompt that is
    cut by an update in the middle of its chunks, on GPU, shows only in the log-probs.) Under `recompute` the tokens
    after an update depend on the new weights alone; those before stay as the former weights wrote them.

    Args:
        model: local folder in Hugging Face format.
        dtype: `float32` or `bfloat16`.
        max_model_len: longest prompt plus completion, tokens.
        engine_args: passed to vLLM untouched, over the defaults here.
        num_ids: ids the tokenizer knows; rows of the head beyond them are padding and never sampled. None: all rows.
        adapter: what is published is this low-rank adapter of `model`; None means whole weights.
        policy_version: version of the weights in `model`.
        kv_cache: of requests in flight while weights change; see `WeightUpdates`.

    Raises:
        ConfigError: an engine argument that vLLM does not know, or that does not go with `kv_cache`.
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
        kv_cache: Literal["keep", "recompute"] = "keep",
    ) -> None:
        vllm_receiver.register()
        sweep()
        self._adapter = EngineAdapter(model, adapter) if adapter is not None else None
        args = {
            "dtype": dtype,
            "max_model_len": max_model_len,
            "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs",
            "weight_transfer_config": WeightTransferConfig(backend=vllm_receiver.BACKEND),
            **(self._adapter.engine_args if self._adapter is not None else {}),
        }
        if kv_cache == "recompute" and current_platform.is_cpu() and engine_args.get("enable_chunked_prefill"):
            raise ConfigError(
                [
                    "sampler.engine_args.enable_chunked_prefill: on CPU a sequence that is read again in parts ends "
                    "the engine (its random generator cannot be rewound); remove it, or set weights.kv_cache=keep"
                ]
            )
        # A prompt cut in two makes vLLM rewind its request's random generator, which a CPU generator cannot do.
        whole_prompts = {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_model_len, _MIN_BATCHED_TOKENS),
        }
        self._engine = start_engine(model, args, engine_args, section="sampler", cpu_args=whole_prompts)
        shapes = self._adapter.shapes if self._adapter is not None else _published_shapes(model)
        self._subscription = Subscription(shapes, policy_version)
        self._first_version = policy_version
        pause = partial(pause_between_tokens, self._engine)
        self._updates = WeightUpdates(self._engine, pause, self._subscription, self._swap, kv_cache)
        self._padding_bias = _padding_bias(model, num_ids)
        self._num_requests = 0
        self._transfer_ready = False

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        """One trajectory per prompt, in order; see `interfaces.Sampler.sample`."""
        if self._updates.weights_lost:
            raise EngineError("this sampler holds no complete weights since a failed update; restart it")
        return list(await asyncio.gather(*(self._sample_one(prompt, params) for prompt in prompts)))

    async def _sample_one(self, prompt: Prompt, params: SamplingParams) -> Trajectory:
        made_at = self._subscription.version
        self._num_requests += 1
        request_id = f"{prompt.sample_id}#{self._num_requests}"
        stream = self._engine.generate(
            TokensPrompt(
                prompt_token_ids=prompt.token_ids.tolist(),
                # Prefixes that other weights cached are not for this request.
                cache_salt=self._subscription.weights,
            ),
            _engine_params(params, sample_seed(params.seed, prompt.sample_id), self._padding_bias),
            request_id,
            lora_request=self._adapter.request if self._adapter is not None else None,
        )
        last = await last_output(stream, request_id)
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
            versions=self._versions(last, made_at),
        )

    def _versions(self, last: Any, made_at: int) -> VersionRange:
        """Of the first and of the last token; a cached prefix may be as old as the request."""
        spans = last.outputs[0].weight_versions
        if not spans:
            raise EngineError(f"the engine does not say which weights wrote {last.request_id}")
        oldest, newest = (
            self._first_version if span.version == _UNLABELLED else int(span.version) for span in (spans[0], spans[-1])
        )
        return VersionRange(min(oldest, made_at) if last.num_cached_tokens else oldest, newest)

    async def load_weights(self, publication: WeightPublication) -> int:
        """Pause between two tokens, swap the weights, go on; requests in flight are kept.

        Raises:
            WeightsError: the publication is damaged, stale, or not made for this model: the former weights stay.
        """
        await self._updates.run(publication)
        return publication.manifest.version

    def time_spent(self) -> Mapping[str, float]:
        """See `interfaces.Timed`."""
        return self._updates.time_spent()

    async def _swap(self, manifest: WeightManifest, segment: SharedSegment) -> None:
        if self._adapter is not None:
            await self._adapter.load(self._engine, manifest, segment)
        else:
            await self._swap_weights(manifest, segment)

    async def _swap_weights(self, manifest: WeightManifest, segment: SharedSegment) -> None:
        if not self._transfer_ready:
            await self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))
            self._transfer_ready = True
        info = vllm_receiver.update_info(manifest, segment)
        await in_order(
            self._engine.start_weight_update(),
            self._engine.update_weights(WeightTransferUpdateRequest(update_info=info)),
            self._engine.finish_weight_update(),  # refused where one of those before was
        )

    async def ping(self) -> None:
        """See `interfaces.Sampler.ping`; vLLM watches the engine's process and knows whether it ended."""
        await check_alive(self._engine)

    async def close(self) -> None:
        self._engine.shutdown()
        if self._adapter is not None:
            self._adapter.close()


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
