"""Rows that have ended are left out of the batch, and the others do not notice."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    NllbMoeConfig,
    NllbMoeForConditionalGeneration,
    PreTrainedModel,
)

from gkd_dist.engines.families import family_at
from gkd_dist.samplers.draw import Draw
from gkd_dist.samplers.writing import write
from gkd_dist.types import SamplingParams
from tests import tiny

NUM_ROWS = 12
LENGTH = 16


class Counting:
    """A reader that notes how many rows it is asked for."""

    def __init__(self, reader: object) -> None:
        self._reader = reader
        self.asked: list[int] = []

    def next_logits(self, rows: Tensor) -> Tensor:
        self.asked.append(len(rows))
        return self._reader.next_logits(rows)  # type: ignore[attr-defined, no-any-return]

    @property
    def can_leave_out(self) -> bool:
        return self._reader.can_leave_out  # type: ignore[attr-defined, no-any-return]

    def keep(self, indices: Tensor) -> None:
        self._reader.keep(indices)  # type: ignore[attr-defined]


SMALL = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "pad_token_id": tiny.PAD,
}


def save_hybrid(path: Path) -> Path:
    """Half of its layers keep a state that has no rows to drop."""
    torch.manual_seed(0)
    Lfm2ForCausalLM(Lfm2Config(**SMALL, layer_types=["conv", "full_attention"])).save_pretrained(path)
    return path


def save_sliding(path: Path) -> Path:
    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(**SMALL, sliding_window=6)).save_pretrained(path)
    return path


def save_experts(path: Path) -> Path:
    """An encoder-decoder that looks into what its encoder gave by name."""
    torch.manual_seed(0)
    config = NllbMoeConfig(
        vocab_size=tiny.VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_experts=2,
        expert_capacity=64,
        encoder_sparse_step=2,
        decoder_sparse_step=2,
        init_std=0.3,
        pad_token_id=tiny.PAD,
        bos_token_id=3,
        eos_token_id=tiny.STOP,
        decoder_start_token_id=tiny.STOP,
    )
    NllbMoeForConditionalGeneration(config).save_pretrained(path)
    return path


@pytest.fixture(
    params=[tiny.save_t5, tiny.save_causal, save_hybrid, save_sliding, save_experts],
    ids=["t5", "llama", "hybrid", "sliding window", "experts"],
)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save: Callable[[Path], Path] = request.param
    return save(tmp_path)


def written(path: Path, model: PreTrainedModel, stops: list[int]) -> tuple[Tensor, Tensor, list[int]]:
    family = family_at(path)
    rows = [np.arange(3, 4 + length % 5, dtype=np.int32) for length in range(NUM_ROWS)]
    input_ids, mask = family.prompts(rows, tiny.PAD)
    reader = Counting(family.reader(model, input_ids, mask))
    draw = Draw(SamplingParams(max_new_tokens=LENGTH), list(range(NUM_ROWS)))
    begin = family.beginning(input_ids)
    ids, log_probs = write(reader, begin, draw, max_new_tokens=LENGTH, stop_token_ids=stops)
    return ids, log_probs, reader.asked


def test_rows_end_alone_and_the_others_go_on_as_if_none_had(model: Path) -> None:
    student = family_at(model).load(model, dtype=torch.float64).eval()
    endless, endless_log_probs, asked = written(model, student, [])
    assert asked == [NUM_ROWS] * LENGTH
    stops = sorted(set(endless[:, ::3].flatten().tolist()))[::3]
    ids, log_probs, asked = written(model, student, stops)
    assert (asked[-1] < NUM_ROWS) == (student.config.model_type != "lfm2")  # rows were left out where they can be
    assert asked == sorted(asked, reverse=True)
    lengths = []
    for row in range(NUM_ROWS):
        ends = np.flatnonzero(np.isin(endless[row], stops))
        lengths.append(int(ends[0]) + 1 if ends.size else LENGTH)
        assert torch.equal(ids[row, : lengths[-1]], endless[row, : lengths[-1]])
        torch.testing.assert_close(log_probs[row, : lengths[-1]], endless_log_probs[row, : lengths[-1]])
    assert len(asked) == max(lengths)
    assert len(set(lengths)) > 2
