"""Logits of completions by transformers alone, one sequence at a time: what batches, caches and layouts are held to."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel


def load(path: Path) -> PreTrainedModel:
    maker = AutoModelForSeq2SeqLM if AutoConfig.from_pretrained(path).is_encoder_decoder else AutoModelForCausalLM
    return maker.from_pretrained(path).eval()


def completion_logits(model: PreTrainedModel, prompt: np.ndarray, completion: np.ndarray) -> torch.Tensor:
    """[L, V] at the positions that predict the completion; an encoder-decoder reads it shifted right."""
    prompt_ids, ids = (torch.from_numpy(np.array(each)).long() for each in (prompt, completion))
    if not model.config.is_encoder_decoder:
        return model(torch.cat([prompt_ids, ids])[None]).logits[0, len(prompt_ids) - 1 : -1]
    start = torch.tensor([model.config.decoder_start_token_id])
    return model(input_ids=prompt_ids[None], decoder_input_ids=torch.cat([start, ids[:-1]])[None]).logits[0]


def logits_of(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """[L, V] of last hidden states [L, H]; T5 with one matrix for embedding and head scales them first."""
    if getattr(model.config, "scale_decoder_outputs", False):
        hidden = hidden * model.config.d_model**-0.5
    return hidden @ model.get_output_embeddings().weight.T


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: np.ndarray, num_tokens: int, stop_id: int, num_ids: int) -> list[int]:
    """At most `num_tokens` of the first `num_ids` ids, up to and including `stop_id`."""
    written: list[int] = []
    while len(written) < num_tokens and stop_id not in written:
        logits = completion_logits(model, prompt, np.array([*written, 0]))
        written.append(int(logits[-1, :num_ids].argmax()))
    return written
