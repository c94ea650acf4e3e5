"""What leaves a student with adapters: whole weights with the adapters added, or the adapters alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig as PeftLoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from gkd_dist.config.lora import LoraConfig
from gkd_dist.weights.adapters import (
    ADAPTER,
    adapter_tensors,
    lora_layers,
    plain_name,
    plain_parameters,
    write_adapter,
)


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters that were attached to a model."""

    config: LoraConfig
    peft: PeftLoraConfig
    """As it is saved."""


@dataclass(frozen=True, eq=False)
class MergedWeight:
    """W + scale * B A [out, in], computed when it is read: never all layers at once."""

    layer: LoraLayer

    @property
    def shape(self) -> torch.Size:
        return self.layer.get_base_layer().weight.shape

    @torch.no_grad()
    def detach(self) -> Tensor:
        weight = self.layer.get_base_layer().weight
        return self.layer.get_delta_weight(ADAPTER).to(weight.dtype).add_(weight)


def published(model: nn.Module, adapters: Adapters | None) -> list[tuple[str, Tensor | MergedWeight]]:
    """What samplers get, by the names they know it under."""
    if adapters is None:
        return list(model.named_parameters())
    if adapters.config.publish == "adapter":
        return list(adapter_tensors(model).items())
    merged = dict(_merged(model))
    return [(name, merged.get(name, tensor)) for name, tensor in plain_parameters(model).items()]


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The whole model as if it had never had adapters; tied tensors stay one."""
    merged = dict(_merged(model))
    plain = {plain_name(name): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    return {name: merged[name].detach() if name in merged else tensor for name, tensor in plain.items()}


def save_adapters(model: nn.Module, adapters: Adapters, folder: Path) -> None:
    """A peft folder; peft and transformers find the base model under the name that it gives."""
    write_adapter(folder, adapters.peft, adapter_tensors(model))


def _merged(model: nn.Module) -> Iterator[tuple[str, MergedWeight]]:
    for name, layer in lora_layers(model).items():
        yield f"{name}.weight", MergedWeight(layer)
