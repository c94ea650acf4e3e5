"""How a family of models lays out prompt and completion: in one row of tokens, or in encoder and decoder.

Everything that differs between causal and encoder-decoder language models of transformers is here. L is the length of
one completion, S of one prompt; completion tokens are those up to and including the real end, in both families.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from gkd_dist.data.collate import collate, collate_pairs, micro_batches, pad, paired_micro_batches
from gkd_dist.divergences import predicting_positions
from gkd_dist.engines.reading import DecoderReader, Reader, RowReader
from gkd_dist.errors import ModelError
from gkd_dist.types import IntArray, Trajectory


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward over whole trajectories."""

    inputs: Mapping[str, Tensor]
    """Keyword arguments of the model."""
    positions: Tensor
    """[N] int64: where completion tokens are predicted, among the flattened [B * T] positions of the hidden states."""


class Family(Protocol):
    """What has to be known of a model beside its weights."""

    in_one_row: ClassVar[bool]
    """Whether a completion follows its prompt in one row of tokens, as packing needs."""

    @property
    def generation(self) -> Mapping[str, int]:
        """What `generate` has to be told."""
        ...

    def load(self, path: str | Path, **options: Any) -> PreTrainedModel: ...

    def skeleton(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model with new weights, on the device that is current.

        Raises:
            ValueError: no language model of this family.
        """
        ...

    def reading(self, ids: Tensor) -> dict[str, Tensor]:
        """Inputs that make every part of the model read `ids` [B, T]."""
        ...

    def groups(self, trajectories: Sequence[Trajectory], max_tokens: int) -> list[list[int]]:
        """Indices, group by group, of at most `max_tokens` tokens with padding, or of a single trajectory."""
        ...

    def lay_out(self, trajectories: Sequence[Trajectory], pad_token_id: int, device: torch.device) -> Pass: ...

    def prompts(self, rows: Sequence[IntArray], pad_token_id: int) -> tuple[Tensor, Tensor]:
        """Ids and attention mask [B, S] that completions go on from."""
        ...

    def beginning(self, input_ids: Tensor) -> Tensor:
        """[B, T] what a reader of such prompts is given before the first token is written."""
        ...

    def reader(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Reader:
        """Of what is written behind such prompts."""
        ...

    def states(self, model: PreTrainedModel, **inputs: Any) -> Tensor:
        """[B, T, H] hidden states after the final norm, of what predicts completions."""
        ...


@dataclass(frozen=True)
class Causal:
    """Prompt and completion in one row; completion token t is predicted at position S + t - 1."""

    in_one_row: ClassVar[bool] = True

    @property
    def generation(self) -> dict[str, int]:
        return {}

    def load(self, path: str | Path, **options: Any) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(path, **options)

    def skeleton(self, config: PretrainedConfig) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(config)

    def reading(self, ids: Tensor) -> dict[str, Tensor]:
        return {"input_ids": ids}

    def groups(self, trajectories: Sequence[Trajectory], max_tokens: int) -> list[list[int]]:
        return micro_batches([each.num_tokens for each in trajectories], max_tokens)

    def lay_out(self, trajectories: Sequence[Trajectory], pad_token_id: int, device: torch.device) -> Pass:
        batch = collate(trajectories, pad_token_id)
        positions = predicting_positions(batch.prompt_lengths, batch.completion_lengths, batch.input_ids.shape[1])
        inputs = {
            "input_ids": torch.from_numpy(batch.input_ids).to(device),
            "attention_mask": torch.from_numpy(batch.attention_mask).to(device),
        }
        return Pass(inputs, positions.to(device))

    def prompts(self, rows: Sequence[IntArray], pad_token_id: int) -> tuple[Tensor, Tensor]:
        """Padded on the left: completions begin in one column."""
        ids, mask = pad(rows, pad_token_id, left=True)
        return torch.from_numpy(ids), torch.from_numpy(mask).long()

    def beginning(self, input_ids: Tensor) -> Tensor:
        return input_ids

    def reader(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Reader:
        del input_ids  # rows begin with them
        return RowReader(model, attention_mask)

    def states(self, model: PreTrainedModel, **inputs: Any) -> Tensor:
        states: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
        return states


@dataclass(frozen=True)
class EncoderDecoder:
    """The prompt in the encoder; the decoder reads `start_id` and then the completion, and predicts token t at t."""

    start_id: int
    in_one_row: ClassVar[bool] = False

    @property
    def generation(self) -> dict[str, int]:
        return {"decoder_start_token_id": self.start_id}

    def load(self, path: str | Path, **options: Any) -> PreTrainedModel:
        return AutoModelForSeq2SeqLM.from_pretrained(path, **options)

    def skeleton(self, config: PretrainedConfig) -> PreTrainedModel:
        return AutoModelForSeq2SeqLM.from_config(config)

    def reading(self, ids: Tensor) -> dict[str, Tensor]:
        return {"input_ids": ids, "decoder_input_ids": ids}

    def groups(self, trajectories: Sequence[Trajectory], max_tokens: int) -> list[list[int]]:
        shapes = [(each.prompt_ids.size, each.num_completion_tokens) for each in trajectories]
        return paired_micro_batches(shapes, max_tokens)

    def lay_out(self, trajectories: Sequence[Trajectory], pad_token_id: int, device: torch.device) -> Pass:
        batch = collate_pairs(trajectories, pad_token_id, self.start_id)
        # What follows a completion is padding that no earlier position of the decoder sees: it needs no mask.
        inputs = {
            "input_ids": torch.from_numpy(batch.input_ids).to(device),
            "attention_mask": torch.from_numpy(batch.attention_mask).to(device),
            "decoder_input_ids": torch.from_numpy(batch.decoder_input_ids).to(device),
        }
        return Pass(inputs, torch.from_numpy(batch.predicting).to(device))

    def prompts(self, rows: Sequence[IntArray], pad_token_id: int) -> tuple[Tensor, Tensor]:
        """Padded on the right, as encoders with absolute positions were trained."""
        ids, mask = pad(rows, pad_token_id, left=False)
        return torch.from_numpy(ids), torch.from_numpy(mask).long()

    def beginning(self, input_ids: Tensor) -> Tensor:
        return input_ids.new_full((len(input_ids), 1), self.start_id)

    def reader(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Reader:
        return DecoderReader(model, input_ids, attention_mask)

    def states(self, model: PreTrainedModel, **inputs: Any) -> Tensor:
        mask = inputs.get("attention_mask")
        encoded = model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
        decoded = model.get_decoder()(
            input_ids=inputs["decoder_input_ids"],
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        )
        states: Tensor = decoded.last_hidden_state
        return states


def family_at(path: str | Path) -> Family:
    """The family of the model in `path`; reads its configuration alone.

    Raises:
        ModelError: an encoder-decoder that does not say what its decoder starts with.
        OSError, ValueError: no configuration that transformers reads.
    """
    config = AutoConfig.from_pretrained(path)
    if not config.is_encoder_decoder:
        return Causal()
    start_id = getattr(config, "decoder_start_token_id", None)
    if start_id is None:
        try:
            start_id = GenerationConfig.from_pretrained(path).decoder_start_token_id
        except OSError:
            start_id = None
    if start_id is None:
        raise ModelError(
            f"{path} ({config.model_type}) does not say what its decoder starts with; set decoder_start_token_id in "
            "its config.json"
        )
    return EncoderDecoder(int(start_id))
