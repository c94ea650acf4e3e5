"""A model that reads along while another one writes: the logits of the next token, with a cache of its own."""

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import EncoderDecoderCache, PreTrainedModel


class Reader(Protocol):
    """Of one batch, from its prompts to its last tokens."""

    def next_logits(self, rows: Tensor) -> Tensor:
        """[B, V] for the token after `rows` [B, T], which are one token longer each time."""
        ...

    @property
    def can_leave_out(self) -> bool:
        """Whether `keep` may be called."""
        ...

    def keep(self, indices: Tensor) -> None:
        """Only these rows [B] go on; the next `rows` have no others."""
        ...


class RowReader:
    """A causal model; `rows` begin with the prompts.

    Args:
        attention_mask: [B, S] of the left-padded prompts.
    """

    def __init__(self, model: PreTrainedModel, attention_mask: Tensor) -> None:
        self._model = model
        self._mask = attention_mask
        self._takes = inspect.signature(model.forward).parameters.keys()
        self._cache: Any = None

    @torch.no_grad()
    def next_logits(self, rows: Tensor) -> Tensor:
        new = rows if self._cache is None else rows[:, -1:]
        written = rows.shape[1] - self._mask.shape[1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(rows), written)], dim=1)
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
        optional = {"position_ids": positions, "logits_to_keep": 1}
        output = self._model(
            input_ids=new,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in self._takes},
        )
        self._cache = getattr(output, "past_key_values", None)  # a model without one reads all again
        logits: Tensor = output.logits[:, -1]
        return logits

    @property
    def can_leave_out(self) -> bool:
        return _can_leave_out(self._cache)

    def keep(self, indices: Tensor) -> None:
        self._mask = self._mask[indices]
        if self._cache is not None:
            self._cache.batch_select_indices(indices)


class DecoderReader:
    """An encoder-decoder; `rows` begin with the start id. Prompts are encoded once.

    Args:
        input_ids: [B, S] prompts.
        attention_mask: [B, S] of them.
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        self._model = model
        self._mask = attention_mask
        self._encoded = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)
        self._cache: Any = None

    @torch.no_grad()
    def next_logits(self, rows: Tensor) -> Tensor:
        output = self._model(
            encoder_outputs=self._encoded,
            attention_mask=self._mask,
            decoder_input_ids=rows if self._cache is None else rows[:, -1:],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = output.past_key_values
        logits: Tensor = output.logits[:, -1]
        return logits

    @property
    def can_leave_out(self) -> bool:
        return _can_leave_out(self._cache)

    def keep(self, indices: Tensor) -> None:
        self._mask = self._mask[indices]
        self._encoded.last_hidden_state = self._encoded.last_hidden_state[indices]
        if self._cache is not None:
            self._cache.batch_select_indices(indices)


def _can_leave_out(cache: Any) -> bool:
    """Layers that keep a state in the place of keys and values have no way to drop rows."""
    if cache is None:
        return True
    halves = [cache]
    if isinstance(cache, EncoderDecoderCache):
        halves = [cache.self_attention_cache, cache.cross_attention_cache]
    layers = [layer for half in halves for layer in getattr(half, "layers", [None])]
    return all(hasattr(layer, "batch_select_indices") for layer in layers)
