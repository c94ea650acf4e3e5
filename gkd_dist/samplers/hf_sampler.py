"""The student on transformers' generate: causal and encoder-decoder models, on any device."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
)

from gkd_dist.config.lora import LoraConfig
from gkd_dist.errors import EngineError, ModelError
from gkd_dist.samplers.gumbel import GumbelProcessor
from gkd_dist.samplers.seeds import sample_seed
from gkd_dist.samplers.teacher_mix import TeacherMix
from gkd_dist.serial import SerialThread
from gkd_dist.types import (
    FinishReason,
    Prompt,
    SamplingParams,
    Source,
    Trajectory,
    VersionRange,
    WeightPublication,
)
from gkd_dist.weights.adapters import adapter_tensors, attach
from gkd_dist.weights.manifest import verify
from gkd_dist.weights.subscription import Subscription
from gkd_dist.weights.tensors import read_tensors


class HfSampler:
    """Implements `interfaces.Sampler`; calls run one after the other, each as one padded batch.

    Args:
        model: local folder in Hugging Face format.
        dtype: `float32` or `bfloat16`.
        pad_token_id: fills the shorter prompts; never attended to.
        num_ids: ids the tokenizer knows; rows of the head beyond them are padding and never sampled. None: all rows.
        adapter: what is published is this low-rank adapter of `model`; None means whole weights.
        policy_version: version of the weights in `model`.
        teacher: local folder of the model that `SamplingParams.teacher_mix` draws from beside the student, in the same
            dtype; None: there is none to mix in.

    Raises:
        ModelError: a teacher beside an encoder-decoder student.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str,
        pad_token_id: int,
        num_ids: int | None,
        adapter: LoraConfig | None = None,
        policy_version: int = 0,
        teacher: str | Path | None = None,
    ) -> None:
        self._encoder_decoder = AutoConfig.from_pretrained(model).is_encoder_decoder
        family = AutoModelForSeq2SeqLM if self._encoder_decoder else AutoModelForCausalLM
        self._model: PreTrainedModel = family.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self._decoder_start = _decoder_start(self._model)
        # `generate` fills every field we leave open from here: penalties, n-gram bans and stop ids of the folder.
        self._model.generation_config = GenerationConfig()
        self._teacher = None if teacher is None else self._load_teacher(teacher, dtype)
        self._pad_token_id = pad_token_id
        self._num_ids = num_ids
        if adapter is not None:
            attach(self._model, adapter)
        self._published = dict(self._model.named_parameters()) if adapter is None else adapter_tensors(self._model)
        shapes = {name: tuple(parameter.shape) for name, parameter in self._published.items()}
        self._subscription = Subscription(shapes, policy_version)
        self._thread = SerialThread("hf-sampler")

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        """One trajectory per prompt, in order; see `interfaces.Sampler.sample`."""
        return await self._thread.run(lambda: self._sample(list(prompts), params))

    async def load_weights(self, publication: WeightPublication) -> int:
        """Copy the publication into the model, between two calls of `sample`.

        Raises:
            WeightsError: the publication is damaged, stale, or not made for this model: the former weights stay.
        """
        return await self._thread.run(lambda: self._load(publication))

    async def ping(self) -> None:
        """See `interfaces.Sampler.ping`; the model is in this process, which answers."""
        self._thread.check()

    async def close(self) -> None:
        self._thread.close()

    @torch.no_grad()
    def _sample(self, prompts: list[Prompt], params: SamplingParams) -> list[Trajectory]:
        if not prompts:
            return []
        input_ids, attention_mask = self._left_padded(prompts)
        seeds = [sample_seed(params.seed, prompt.sample_id) for prompt in prompts]
        gumbel = GumbelProcessor(params, seeds, self._num_ids)
        mix = self._mix(params, attention_mask)
        sequences = self._model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            generation_config=self._generation_config(params),
            logits_processor=LogitsProcessorList([*mix, gumbel]),
        )
        log_probs = gumbel.chosen_log_probs(sequences).numpy()
        completions = sequences[:, -log_probs.shape[1] :].numpy().astype(np.int32)
        rows = zip(prompts, completions, log_probs, strict=True)
        return [self._trajectory(prompt, ids, row, params) for prompt, ids, row in rows]

    def _load_teacher(self, teacher: str | Path, dtype: str) -> PreTrainedModel:
        if self._encoder_decoder:
            raise ModelError("a teacher can be mixed into the sampling of causal students only; set teacher_mix=0")
        return AutoModelForCausalLM.from_pretrained(teacher, dtype=getattr(torch, dtype)).eval()

    def _mix(self, params: SamplingParams, attention_mask: torch.Tensor) -> list[TeacherMix]:
        if params.teacher_mix == 0:
            return []
        if self._teacher is None:
            raise EngineError("this sampler was started without a teacher; it cannot sample with teacher_mix above 0")
        return [TeacherMix(self._teacher, params.teacher_mix, attention_mask, self._num_ids)]

    def _left_padded(self, prompts: list[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(prompt.token_ids.size for prompt in prompts)
        input_ids = torch.full((len(prompts), width), self._pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            input_ids[row, width - prompt.token_ids.size :] = torch.from_numpy(prompt.token_ids.copy())
            attention_mask[row, width - prompt.token_ids.size :] = 1
        return input_ids, attention_mask

    def _generation_config(self, params: SamplingParams) -> GenerationConfig:
        return GenerationConfig(
            do_sample=False,  # the noise is ours, see gumbel.py
            num_beams=1,
            max_new_tokens=params.max_new_tokens,
            eos_token_id=list(params.stop_token_ids) or None,
            pad_token_id=self._pad_token_id,
            decoder_start_token_id=self._decoder_start,
            use_cache=True,
        )

    def _trajectory(
        self, prompt: Prompt, token_ids: np.ndarray, log_probs: np.ndarray, params: SamplingParams
    ) -> Trajectory:
        stops = np.flatnonzero(np.isin(token_ids, params.stop_token_ids))
        length = int(stops[0]) + 1 if stops.size else token_ids.size
        return Trajectory(
            sample_id=prompt.sample_id,
            prompt_ids=prompt.token_ids,
            completion_ids=token_ids[:length].copy(),
            source=Source.STUDENT,
            finish_reason=FinishReason.STOP if stops.size else FinishReason.LENGTH,
            behaviour_log_probs=log_probs[:length].astype(np.float32),
            versions=VersionRange(self._subscription.version, self._subscription.version),
        )

    @torch.no_grad()
    def _load(self, publication: WeightPublication) -> int:
        manifest = publication.manifest
        self._subscription.check(manifest)
        buckets = [np.array(bucket, dtype=np.uint8) for bucket in publication.buckets]
        verify(manifest, buckets)
        for name, tensor in read_tensors(buckets, manifest.tensors):
            self._published[name].copy_(tensor)
        self._subscription.accept(manifest)
        return manifest.version


def _decoder_start(model: PreTrainedModel) -> int | None:
    """The id an encoder-decoder model starts its completions from."""
    own = model.generation_config.decoder_start_token_id
    return own if own is not None else getattr(model.config, "decoder_start_token_id", None)
