"""The student on transformers: causal and encoder-decoder models, on a CPU or a GPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from gkd_dist.config.lora import LoraConfig
from gkd_dist.engines.coalescing import Coalescer
from gkd_dist.engines.families import family_at
from gkd_dist.engines.forcing import ForcingProcessor, NextId
from gkd_dist.errors import EngineError, ModelError
from gkd_dist.samplers.draw import Draw
from gkd_dist.samplers.seeds import sample_seed
from gkd_dist.samplers.teacher_mix import TeacherMix
from gkd_dist.samplers.writing import write
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
    """Implements `interfaces.Sampler`; requests that wait while a batch is written become the next batch.

    Args:
        model: local folder in Hugging Face format.
        dtype: `float32` or `bfloat16`.
        pad_token_id: fills the shorter prompts; never attended to.
        num_ids: ids the tokenizer knows; rows of the head beyond them are padding and never sampled. None: all rows.
        adapter: what is published is this low-rank adapter of `model`; None means whole weights.
        policy_version: version of the weights in `model`.
        max_batch_size: rows of one padded batch; more are written one batch after the other, the longest prompts first.
        teacher: local folder of the model that `SamplingParams.teacher_mix` draws from beside the student, in the same
            dtype; None: there is none to mix in.
        next_id: puts ids into what is written; their behaviour log-prob is 0. None leaves every choice to the model.
        device: where the models run. Sampling noise comes from the CPU, and is the same for every device.

    Raises:
        ModelError: a teacher that does not lay out prompt and completion as the student does.
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
        max_batch_size: int = 64,
        teacher: str | Path | None = None,
        next_id: NextId | None = None,
        device: str = "cpu",
    ) -> None:
        self._family = family_at(model)
        self._model = self._family.load(model, dtype=getattr(torch, dtype)).eval()
        self._teacher = None if teacher is None else self._load_teacher(teacher, dtype).to(device)
        self._pad_token_id = pad_token_id
        self._num_ids = num_ids
        if adapter is not None:
            attach(self._model, adapter)
        self._model.to(device)
        self._published = dict(self._model.named_parameters()) if adapter is None else adapter_tensors(self._model)
        shapes = {name: tuple(parameter.shape) for name, parameter in self._published.items()}
        self._subscription = Subscription(shapes, policy_version)
        self._max_batch_size = max_batch_size
        self._next_id = next_id
        self._requests: Coalescer[SamplingParams, Prompt, Trajectory] = Coalescer(
            "hf-sampler", self._sample, max_items=max_batch_size
        )

    async def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
        """One trajectory per prompt, in order; see `interfaces.Sampler.sample`."""
        return await self._requests.ask(params, prompts)

    async def load_weights(self, publication: WeightPublication) -> int:
        """Copy the publication into the model, between two batches: after what was asked before, and before what is
        asked later.

        Raises:
            WeightsError: the publication is damaged, stale, or not made for this model: the former weights stay.
        """
        return await self._requests.in_turn(lambda: self._load(publication))

    async def ping(self) -> None:
        """See `interfaces.Sampler.ping`; the model is in this process, which answers."""
        self._requests.check()

    async def close(self) -> None:
        self._requests.close()

    def _sample(self, params: SamplingParams, prompts: list[Prompt]) -> list[Trajectory]:
        """In batches of similar prompts, so that little of them is padding."""
        order = sorted(range(len(prompts)), key=lambda index: (-prompts[index].token_ids.size, index))
        written: dict[int, Trajectory] = {}
        for start in range(0, len(order), self._max_batch_size):
            indices = order[start : start + self._max_batch_size]
            rows = self._write(params, [prompts[index] for index in indices])
            written.update(zip(indices, rows, strict=True))
        return [written[index] for index in range(len(prompts))]

    @torch.no_grad()
    def _write(self, params: SamplingParams, prompts: list[Prompt]) -> list[Trajectory]:
        """One padded batch."""
        rows = self._family.prompts([each.token_ids for each in prompts], self._pad_token_id)
        input_ids, attention_mask = (part.to(self._model.device) for part in rows)
        seeds = [sample_seed(params.seed, prompt.sample_id) for prompt in prompts]
        begin = self._family.beginning(input_ids)
        mix = self._mix(params, input_ids, attention_mask)
        forcing = [] if self._next_id is None else [ForcingProcessor(self._next_id, begin.shape[1])]
        ids, log_probs = write(
            self._family.reader(self._model, input_ids, attention_mask),
            begin,
            Draw(params, seeds, self._num_ids),
            [*mix, *forcing],
            max_new_tokens=params.max_new_tokens,
            stop_token_ids=params.stop_token_ids,
        )
        completions = ids.cpu().numpy().astype(np.int32)
        written = zip(prompts, completions, log_probs.cpu().numpy(), strict=True)
        return [self._trajectory(prompt, ids, row, params) for prompt, ids, row in written]

    def _load_teacher(self, teacher: str | Path, dtype: str) -> PreTrainedModel:
        if family_at(teacher) != self._family:
            raise ModelError(
                f"the teacher {teacher} does not read prompt and completion as the student does (in one row, or in "
                "encoder and decoder with one start id), and cannot be mixed into its sampling; set teacher_mix=0"
            )
        return self._family.load(teacher, dtype=getattr(torch, dtype)).eval()

    def _mix(self, params: SamplingParams, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[TeacherMix]:
        if params.teacher_mix == 0:
            return []
        if self._teacher is None:
            raise EngineError("this sampler was started without a teacher; it cannot sample with teacher_mix above 0")
        reader = self._family.reader(self._teacher, input_ids, attention_mask)
        return [TeacherMix(reader, params.teacher_mix, self._num_ids)]

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
        buckets = [np.asarray(bucket, dtype=np.uint8) for bucket in publication.buckets]
        verify(manifest, buckets)
        for name, tensor in read_tensors(buckets, manifest.tensors):
            self._published[name].copy_(tensor)
        self._subscription.accept(manifest)
        return manifest.version
