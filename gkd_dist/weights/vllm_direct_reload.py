"""Checkpoint weights straight into the parameters of a running vLLM model, where nothing is quantised.

vLLM's layerwise reload is made for every quantisation: it materialises each layer anew, counts what is copied into it,
processes it, and copies the outcome into the old tensors. Unquantised parameters can take new values where they lie.
Only linear layers on CPU cannot: they multiply with a packed copy and have given up their weight, so it is
materialised, loaded, packed, and given up again, one layer after the other. What comes in one piece is packed from
where it lies.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import (
    LinearBase,
    ReplicatedLinear,
    RowParallelLinear,
    UnquantizedLinearMethod,
)
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.model_executor.model_loader.reload.meta import materialize_meta_tensor, to_meta_tensor
from vllm.model_executor.model_loader.reload.sanitize import restore_layer_refs
from vllm.platforms import current_platform

_COPYING = (RowParallelLinear.weight_loader, RowParallelLinear.weight_loader_v2, ReplicatedLinear.weight_loader)
"""Loaders that copy a tensor as it is where it has the parameter's shape."""


def is_plain(model: nn.Module) -> bool:
    """Whether all that is made of loaded weights is made by unquantised linear layers, embeddings and heads."""
    return all(
        _has_plain_method(module) and not hasattr(module, "kv_b_proj")  # absorbed into others by latent attention
        for module in model.modules()
    )


def _has_plain_method(module: nn.Module) -> bool:
    method = getattr(module, "quant_method", None)
    if isinstance(module, LinearBase):
        parameters, _ = get_layerwise_info(module).restore_metadata
        is_matrix = "weight" in parameters and parameters["weight"].ndim == 2  # a convolution is none
        is_whole = module.weight.numel() > 0 or module.tp_size == 1  # parts of a packed one could not be counted
        return type(method) is UnquantizedLinearMethod and is_matrix and is_whole
    return method is None or (isinstance(module, VocabParallelEmbedding) and type(method) is UnquantizedEmbeddingMethod)


class DirectReload:
    """Updates of one model: `begin`, `load` as often as there are weights, `end`. One that was not ended is begun anew.

    Args:
        model: for which `is_plain`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._unpacked: dict[LinearBase, nn.Parameter] = {}
        """Packed layers whose weight is not complete yet, with the empty one that they keep."""

    @torch.no_grad()
    def begin(self) -> None:
        """Give the packed layers a weight that can be loaded; it takes memory when its first part comes."""
        for module in list(self._unpacked):
            self._give_up(module)
        for module in self.model.modules():
            if isinstance(module, LinearBase) and not module.weight.numel():
                self._unpack(module)

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """In any order, by their names in a checkpoint."""
        self.model.load_weights(weights)

    @torch.no_grad()
    def end(self) -> None:
        """All of it was loaded.

        Raises:
            ValueError: a layer did not get all of its weight.
        """
        if self._unpacked:
            raise ValueError(f"{len(self._unpacked)} layers did not get all of their weights")
        tables = [module for module in self.model.modules() if isinstance(module, VocabParallelEmbedding)]
        heads = [module for module in tables if isinstance(module, ParallelLMHead)]
        of_heads = {head.weight.data_ptr() for head in heads}
        # They multiply with a packed copy too, and keep their weight. An embedding without a head may be one itself.
        for module in heads + [each for each in tables if each.weight.data_ptr() not in of_heads]:
            module.quant_method.process_weights_after_loading(module)

    def _unpack(self, module: LinearBase) -> None:
        parameters, _ = get_layerwise_info(module).restore_metadata
        self._unpacked[module] = module.weight
        shape = restore_layer_refs(to_meta_tensor(parameters["weight"]), module)
        missing, load_part = shape.numel(), shape.weight_loader
        while load_part.__name__ == "online_process_loader":  # of a layerwise reload before; now it would do nothing
            load_part = load_part.__wrapped__
        weight: nn.Parameter | None = None  # its memory is that of the layer before, and still in the cache

        def load(_: nn.Parameter, loaded: Tensor, *more: Any, **options: Any) -> None:
            nonlocal missing, weight
            if _can_be_packed(loaded, shape, load_part):
                self._pack(module, nn.Parameter(loaded, requires_grad=False))
                return
            if weight is None:
                weight = materialize_meta_tensor(shape)
                weight.weight_loader = load_part
            load_part(weight, loaded, *more, **options)
            missing -= loaded.numel()
            if missing <= 0:
                self._pack(module, weight)
                weight = None

        shape.weight_loader = load
        _put(module, shape)

    def _pack(self, module: LinearBase, weight: nn.Parameter) -> None:
        _put(module, weight)
        module.quant_method.process_weights_after_loading(module)
        self._give_up(module)

    def _give_up(self, module: LinearBase) -> None:
        _put(module, self._unpacked.pop(module))


def _can_be_packed(loaded: Tensor, shape: nn.Parameter, load_part: Callable[..., Any]) -> bool:
    """Whether `loaded` is what its loader would make of it, and may be packed where it lies. It belongs to others:
    packing has to make a copy, as all but AMD's own products do."""
    is_same = (loaded.shape, loaded.stride(), loaded.dtype) == (shape.shape, shape.stride(), shape.dtype)
    return is_same and getattr(load_part, "__func__", None) in _COPYING and not current_platform.is_zen_cpu()


def _put(module: nn.Module, weight: nn.Parameter) -> None:
    delattr(module, "weight")
    module.register_parameter("weight", weight)
