"""Greedy decoding and beam search on transformers, with the calculator inside the loop."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from gkd_dist.evaluation.insertion import Insertion
from gkd_dist.evaluation.writers import Completion
from gkd_dist.serial import SerialThread
from gkd_dist.types import Prompt, SamplingParams


class SearchingWriter:
    """Implements `Writer`; calls run one after the other, each as one padded batch. Causal and encoder-decoder models.

    Hypotheses are compared by the sum of their log-probs over length ** length_penalty, as in transformers.

    Args:
        model: local folder in Hugging Face format.
        dtype: `float32` or `bfloat16`.
        pad_token_id: fills the shorter prompts; never attended to.
        num_ids: ids the tokenizer knows; rows of the head beyond them are never chosen.
        num_beams: 1 is greedy.
        insertion: the calculator, if any.
        device: where the model runs.
    """

    def __init__(
        self,
        model: Path,
        *,
        dtype: str,
        pad_token_id: int,
        num_ids: int,
        num_beams: int,
        length_penalty: float,
        insertion: Insertion | None,
        device: str = "cpu",
    ) -> None:
        config = AutoConfig.from_pretrained(model)
        family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        self._model: PreTrainedModel = family.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()
        own = self._model.generation_config.decoder_start_token_id
        self._decoder_start = own if own is not None else getattr(config, "decoder_start_token_id", None)
        # `generate` fills every field that is left open from here.
        self._model.generation_config = GenerationConfig()
        self._encoder_decoder = config.is_encoder_decoder
        self._pad_token_id = pad_token_id
        self._padding_ids = list(range(num_ids, config.get_text_config().vocab_size)) or None
        self._num_beams = num_beams
        self._length_penalty = length_penalty
        self._insertion = insertion
        self._thread = SerialThread("search")

    async def write(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """`params.temperature` must be 0."""
        if params.temperature != 0:
            raise ValueError("a search draws nothing; use a sampler")
        return await self._thread.run(lambda: self._write(list(prompts), params))

    async def close(self) -> None:
        self._thread.close()

    @torch.no_grad()
    def _write(self, prompts: list[Prompt], params: SamplingParams) -> list[Completion]:
        input_ids, attention_mask = self._left_padded(prompts)
        begins_at = 1 if self._encoder_decoder else input_ids.shape[1]
        processors = [] if self._insertion is None else [_Inserting(self._insertion, begins_at)]
        sequences = self._model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=self._num_beams,
                length_penalty=self._length_penalty,
                max_new_tokens=params.max_new_tokens,
                eos_token_id=list(params.stop_token_ids) or None,
                pad_token_id=self._pad_token_id,
                decoder_start_token_id=self._decoder_start,
                suppress_tokens=self._padding_ids,
                use_cache=True,
            ),
            logits_processor=LogitsProcessorList(processors),
        )
        rows = sequences[:, begins_at:].cpu().numpy().astype(np.int32)
        return [_completion(row, params) for row in rows]

    def _left_padded(self, prompts: list[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(prompt.token_ids.size for prompt in prompts)
        input_ids = torch.full((len(prompts), width), self._pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            start = width - prompt.token_ids.size
            input_ids[row, start:] = torch.from_numpy(prompt.token_ids.astype(np.int64))
            attention_mask[row, start:] = 1
        return input_ids.to(self._model.device), attention_mask.to(self._model.device)


class _Inserting(LogitsProcessor):
    """Leaves one id where the calculator decides.

    Args:
        begins_at: column of the first generated id.
    """

    def __init__(self, insertion: Insertion, begins_at: int) -> None:
        self._insertion = insertion
        self._begins_at = begins_at

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for row, generated in enumerate(input_ids[:, self._begins_at :].tolist()):
            forced = self._insertion.next(generated)
            if forced is not None:
                scores[row] = float("-inf")
                scores[row, forced] = 0.0
        return scores


def _completion(row: np.ndarray, params: SamplingParams) -> Completion:
    """Up to its stop token; a beam that ended without one is padded behind the length limit alone."""
    stops = np.flatnonzero(np.isin(row, params.stop_token_ids))
    length = int(stops[0]) + 1 if stops.size else row.size
    return Completion(row[:length].copy(), not stops.size)
