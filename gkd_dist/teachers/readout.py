"""The teacher's readout: everything after its last hidden state, read from a checkpoint without the teacher itself."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig

from gkd_dist.divergences import Readout
from gkd_dist.errors import ModelError

_HEAD = "lm_head.weight"
_BIAS = "lm_head.bias"
_EMBEDDINGS = (
    "model.embed_tokens.weight",
    "transformer.wte.weight",
    "gpt_neox.embed_in.weight",
    "model.decoder.embed_tokens.weight",
)


def load_readout(path: Path, *, dtype: str, num_ids: int | None = None, device: str = "cpu") -> Readout:
    """LM head, bias, soft cap and scale of the causal model in `path`.

    Args:
        dtype: `float32` or `bfloat16`, of the weight [V, H] that is held; products are accumulated in float32 anyway.
        num_ids: real vocabulary; logits are cut to it before any softmax.
        device: where it is held. CPU; CUDA untested.

    Raises:
        ModelError: the checkpoint has no head that we know.
    """
    config = AutoConfig.from_pretrained(path)
    files = _tensor_files(path)
    name = _head_name(config, files, path)
    weight = _read(files[name], name).to(device, getattr(torch, dtype))
    bias = _read(files[_BIAS], _BIAS).to(device, torch.float32) if _BIAS in files else None
    return Readout.of(weight, bias, config, num_ids=num_ids)


def _head_name(config: PretrainedConfig, files: dict[str, Path], path: Path) -> str:
    candidates = _EMBEDDINGS if config.tie_word_embeddings else (_HEAD, "embed_out.weight")
    for name in (*candidates, _HEAD):
        if name in files:
            return name
    raise ModelError(f"teacher {path}: no LM head among its tensors (looked for {', '.join((*candidates, _HEAD))})")


def _tensor_files(path: Path) -> dict[str, Path]:
    """Tensor name -> safetensors file."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        return {name: path / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    single = path / "model.safetensors"
    if not single.is_file():
        raise ModelError(f"teacher {path}: no safetensors file; convert it with save_pretrained")
    with safe_open(single, framework="pt") as file:
        return dict.fromkeys(file.keys(), single)


def _read(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
