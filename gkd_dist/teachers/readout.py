"""The teacher's readout: everything after its last hidden state, read from a checkpoint without the teacher itself.

Where the head is called what, and what it is tied to, is asked of the model's own class, built without storage.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from gkd_dist.divergences import Readout
from gkd_dist.engines.families import family_at
from gkd_dist.errors import ModelError

_LOGITS_BIAS = "final_logits_bias"
"""BART's, a buffer [1, V] beside the head."""


def load_readout(path: Path, *, dtype: str, num_ids: int | None = None, device: str = "cpu") -> Readout:
    """LM head, bias, soft cap and scale of the causal or encoder-decoder model in `path`.

    Only the head's tensors are read.

    Args:
        dtype: `float32` or `bfloat16`, of the weight [V, H] that is held; products are accumulated in float32 anyway.
        num_ids: real vocabulary; logits are cut to it before any softmax.
        device: where it is held. CPU; CUDA untested.

    Raises:
        ModelError: not a language model of transformers, or a checkpoint without its head.
    """
    config = AutoConfig.from_pretrained(path)
    head = _head(config, path)
    files = TensorFiles(path)
    weight = files.read(head.weights).to(device, getattr(torch, dtype))
    bias = files.read(head.biases).to(device, torch.float32).flatten() if files.has(head.biases) else None
    return Readout.of(weight, bias, config.get_text_config(), num_ids=num_ids)


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of a checkpoint in safetensors format; opened one by one, when they are asked for.

    Raises:
        ModelError: there is no such file.
    """

    path: Path

    def read(self, names: tuple[str, ...]) -> torch.Tensor:
        """The first of `names` that is there.

        Raises:
            ModelError: none is.
        """
        found = self.places()
        for name in names:
            if name in found:
                with safe_open(found[name], framework="pt") as file:
                    return file.get_tensor(name)
        raise ModelError(f"teacher {self.path}: no LM head among its tensors (looked for {', '.join(names)})")

    def has(self, names: tuple[str, ...]) -> bool:
        return any(name in self.places() for name in names)

    def places(self) -> dict[str, Path]:
        """Tensor name -> safetensors file."""
        index = self.path / "model.safetensors.index.json"
        if index.is_file():
            return {name: self.path / file for name, file in json.loads(index.read_text())["weight_map"].items()}
        single = self.path / "model.safetensors"
        if not single.is_file():
            raise ModelError(f"teacher {self.path}: no safetensors file; convert it with save_pretrained")
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)


@dataclass(frozen=True)
class _Head:
    """Names under which a checkpoint may hold the head, the most telling first."""

    weights: tuple[str, ...]
    biases: tuple[str, ...]


def _head(config: PretrainedConfig, path: Path) -> _Head:
    """The head's own tensor, else the one it is tied to: as transformers loads a checkpoint that has both or one."""
    model = _skeleton(config, path)
    head = model.get_output_embeddings()
    if head is None or not isinstance(getattr(head, "weight", None), torch.Tensor):
        raise ModelError(f"teacher {path}: {type(model).__name__} has no LM head that is one matrix")
    (name,) = [name for name, module in model.named_modules() if module is head]
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return _Head(_names(model, f"{name}.weight", tied), _bias_names(model, name, head, tied))


def _bias_names(model: PreTrainedModel, name: str, head: nn.Module, tied: dict[str, str]) -> tuple[str, ...]:
    if getattr(head, "bias", None) is not None:
        return _names(model, f"{name}.bias", tied)
    return (_LOGITS_BIAS,) if hasattr(model, _LOGITS_BIAS) else ()


def _names(model: PreTrainedModel, own: str, tied: dict[str, str]) -> tuple[str, ...]:
    """`own`, what it is tied to, how older checkpoints call these, and how those of bare bodies do."""
    source = tied.get(own)
    partners = [target for target, other in tied.items() if other == source and target != own] if source else []
    full = [own, *([source] if source else []), *partners]
    saved = [name for each in full for name in revert_weight_conversion(model, {each: torch.empty(0)})]
    bare = [name.removeprefix(f"{model.base_model_prefix}.") for name in full]
    return tuple(dict.fromkeys([*full, *saved, *bare]))


def _skeleton(config: PretrainedConfig, path: Path) -> PreTrainedModel:
    try:
        with torch.device("meta"):
            return family_at(path).skeleton(config)
    except ValueError as error:
        raise ModelError(f"teacher {path}: {config.model_type} is no language model of transformers") from error
