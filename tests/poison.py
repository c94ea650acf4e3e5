"""A student and rows that together make a loss that is no number."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests import tiny


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def save_poisoned(path: Path) -> Path:
    """A student with finite weights whose loss is not finite wherever it reads `w60`.

    The last channel is 0 for every other token, and nobody writes to it or reads it, but for one unit of the first
    layer: its weight overflows on `w60`, and its gate is closed, so that it says nothing elsewhere (0 * inf here, 0 * 0
    there).
    """
    tiny.save_causal(path, seed=1, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight[:, -1] = 0
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight[-1] = 0
        model.get_input_embeddings().weight[60, -1] = 10
        model.model.layers[0].mlp.gate_proj.weight[0] = 0
        model.model.layers[0].mlp.up_proj.weight[0] = 0
        model.model.layers[0].mlp.up_proj.weight[0, -1] = 1e38
    model.save_pretrained(path)
    return path


def pairs(path: Path, num_poisoned: int) -> Path:
    rows = [f"w{3 + row} w{'60' if row % 40 < num_poisoned else '61'} w{80 + row}" for row in range(40)]
    path.write_text("".join(json.dumps({"prompt": row, "completion": "w7 w8"}) + "\n" for row in rows))
    return path
