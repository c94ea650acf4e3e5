"""The decoder layers of a causal language model as one stack: finding, tracing, bypassing and removing them.

Works for every architecture of transformers that keeps its layers in one `torch.nn.ModuleList`
(Llama, Qwen, Mistral, Gemma, GPT-2, GPT-NeoX ...). Letters: B sequences, T token positions, H hidden size.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from gkd_dist.errors import ModelError


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The one ModuleList of length `config.num_hidden_layers`.

    Raises:
        ModelError: the model is an encoder-decoder, or has no such list, or several at the same depth.
    """
    name = type(model).__name__
    num_layers = getattr(model.config, "num_hidden_layers", None)
    if getattr(model.config, "is_encoder_decoder", False) or not isinstance(num_layers, int):
        raise ModelError(f"{name} is not a plain decoder, and only those can be pruned; choose a causal language model")
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    depth = min((path.count(".") for path, _ in found), default=0)
    outermost = [(path, module) for path, module in found if path.count(".") == depth]
    if len(outermost) != 1:
        candidates = ", ".join(path for path, _ in outermost) or "none"
        raise ModelError(
            f"{name} does not keep its {num_layers} decoder layers in one ModuleList (candidates: {candidates}), "
            "so it cannot be pruned; use a smaller model of the same family as the student"
        )
    return outermost[0][1]


class LayerStack:
    """Decoder layers of a model that can be watched and bypassed without touching the model's own code.

        stack = LayerStack(model)
        logits, entering = stack.trace(forward)
        with stack.bypass({4, 25}):
            pruned_logits = forward()

    `forward` must run the model once with `use_cache=False`. Call `trace` first: it learns what a layer returns.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.layers = decoder_layers(model)
        self._returns_tuple: bool | None = None

    def trace(self, forward: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Result of `forward()` with the hidden state entering each layer, each [B, T, H]."""
        entering: list[torch.Tensor] = []

        def before(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            entering.append(_hidden_of(args, kwargs))

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            self._returns_tuple = isinstance(output, tuple)

        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(self.layers[0].register_forward_hook(after).remove)
            return forward(), entering

    @contextmanager
    def bypass(self, dropped: Collection[int], entry: Mapping[int, torch.Tensor] | None = None) -> Iterator[None]:
        """Inside the context the given layers hand on their input; masks, positions and the rest stay as they are.

        Args:
            dropped: indices to bypass.
            entry: layer -> [B, T, H]: what this bypassed layer returns in place of its own input.
        """
        if self._returns_tuple is None:
            raise RuntimeError("call trace() once before bypass()")
        try:
            for index in dropped:
                hidden = entry.get(index) if entry else None
                self.layers[index].forward = _hand_on(hidden, self._returns_tuple)
            yield
        finally:
            for index in dropped:
                self.layers[index].__dict__.pop("forward", None)  # uncovers the method of the class


def _hand_on(entry: torch.Tensor | None, returns_tuple: bool) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = _hidden_of(args, kwargs) if entry is None else entry
        return (hidden,) if returns_tuple else hidden

    return forward


def _hidden_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def remove_layers(model: PreTrainedModel, dropped: Collection[int]) -> None:
    """Take the given layers out of `model` and its configuration, in place."""
    modules = decoder_layers(model)
    for index in sorted(dropped, reverse=True):
        del modules[index]
    for index, layer in enumerate(modules):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]  # the slot of this layer in the key-value cache
    trim_config(model.config, dropped)


def trim_config(config: PretrainedConfig, dropped: Collection[int]) -> None:
    """Make `config` describe the model without the given layers, in place.

    Per-layer lists (`layer_types`, `mlp_layer_types`, `block_types` ...) lose the same entries.
    """
    num_layers = config.num_hidden_layers
    for key, value in config.to_dict().items():
        # Token id lists can have the same length by chance; per-layer lists are named for layers or blocks.
        per_layer = "layer" in key or "block" in key
        if per_layer and isinstance(value, list) and len(value) == num_layers:
            setattr(config, key, [item for index, item in enumerate(value) if index not in dropped])
    config.num_hidden_layers = num_layers - len(dropped)
