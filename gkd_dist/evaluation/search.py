"""Greedy decoding and beam search on transformers, with the calculator inside the loop."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from gkd_dist.engines.families import family_at
from gkd_dist.engines.forcing import ForcingProcessor, NextId
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
        next_id: a calculator, say; None leaves every choice to the model.
        is_over: whether ids [n] say all that is wanted; what follows is filled with `pad_token_id`. Greedy alone asks.
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
        next_id: NextId | None = None,
        is_over: Callable[[Sequence[int]], bool] | None = None,
        device: str = "cpu",
    ) -> None:
        self._family = family_at(model)
        self._model: PreTrainedModel = self._family.load(model, dtype=getattr(torch, dtype)).to(device).eval()
        # `generate` fills every field that is left open from here.
        self._model.generation_config = GenerationConfig()
        self._pad_token_id = pad_token_id
        self._padding_ids = list(range(num_ids, self._model.config.get_text_config().vocab_size)) or None
        self._num_beams = num_beams
        self._length_penalty = length_penalty
        self._next_id = next_id
        self._is_over = is_over if num_beams == 1 else None
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
        rows = [prompt.token_ids for prompt in prompts]
        input_ids, attention_mask = self._family.prompts(rows, self._pad_token_id)
        begins_at = input_ids.shape[1] if self._family.in_one_row else 1
        processors = [] if self._next_id is None else [ForcingProcessor(self._next_id, begins_at)]
        sequences = self._model.generate(
            input_ids=input_ids.to(self._model.device),
            attention_mask=attention_mask.to(self._model.device),
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=self._num_beams,
                length_penalty=self._length_penalty,
                max_new_tokens=params.max_new_tokens,
                eos_token_id=list(params.stop_token_ids) or None,
                pad_token_id=self._pad_token_id,
                suppress_tokens=self._padding_ids,
                use_cache=True,
                **self._family.generation,
            ),
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList(
                [] if self._is_over is None else [_Ending(self._is_over, begins_at)]
            ),
        )
        completions = sequences[:, begins_at:].cpu().numpy().astype(np.int32)
        return [_completion(row, params) for row in completions]


class _Ending(StoppingCriteria):
    """Ends the rows that are over.

    Args:
        begins_at: column of the first generated id.
    """

    def __init__(self, is_over: Callable[[Sequence[int]], bool], begins_at: int) -> None:
        self._is_over = is_over
        self._begins_at = begins_at

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:  # noqa: ARG002
        over = [self._is_over(generated) for generated in input_ids[:, self._begins_at :].tolist()]
        return torch.tensor(over, device=input_ids.device)


def _completion(row: np.ndarray, params: SamplingParams) -> Completion:
    """Up to its stop token; a beam that ended without one is padded behind the length limit alone."""
    stops = np.flatnonzero(np.isin(row, params.stop_token_ids))
    length = int(stops[0]) + 1 if stops.size else row.size
    return Completion(row[:length].copy(), not stops.size)
