"""A saved adapter as a model reference: merged once, refused with a reason where it cannot be."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gkd_dist.config.lora import LoraConfig
from gkd_dist.errors import ModelError
from gkd_dist.models.packaged import already_here, is_converted, materialise
from gkd_dist.weights.adapters import adapter_tensors, attach, write_adapter
from tests import tiny as tiny_models

IDS = torch.arange(3, 20)[None]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_models.save_causal(tmp_path / "base", seed=1)


def save_adapter(base: Path, folder: Path, *, scale: float = 0.05, name: str | None = None) -> torch.Tensor:
    """An adapter of `base` in `folder`; returns the logits it gives."""
    model = AutoModelForCausalLM.from_pretrained(base)
    config = attach(model, LoraConfig(r=4))
    config.base_model_name_or_path = name or str(base)
    for tensor in adapter_tensors(model).values():
        tensor.data.normal_(0, scale, generator=torch.Generator().manual_seed(0))
    folder.mkdir(exist_ok=True)
    write_adapter(folder, config, dict(adapter_tensors(model)))
    with torch.no_grad():
        return model(IDS).logits


def test_an_adapter_becomes_its_merged_model_once(base: Path, tmp_path: Path) -> None:
    expected = save_adapter(base, tmp_path / "final")
    assert is_converted(str(tmp_path / "final")) and not is_converted(str(base))
    assert already_here(str(tmp_path / "final"), tmp_path / "cache") is None
    merged = materialise(str(tmp_path / "final"), tmp_path / "cache")
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(merged)(IDS).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert already_here(str(tmp_path / "final"), tmp_path / "cache") == merged
    changed = (merged / "model.safetensors").stat().st_mtime_ns
    assert materialise(str(tmp_path / "final"), tmp_path / "cache") == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == changed


def test_another_adapter_in_the_same_folder_is_merged_anew(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "final")
    first = materialise(str(tmp_path / "final"), tmp_path / "cache")
    save_adapter(base, tmp_path / "final", scale=0.1)
    assert materialise(str(tmp_path / "final"), tmp_path / "cache") != first


def test_what_cannot_be_merged_is_refused(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "final"
    save_adapter(base, folder, name=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="gone"):
        materialise(str(folder), tmp_path / "cache")
    other = tiny_models.save_causal(tmp_path / "other", num_layers=1)
    save_adapter(base, folder, name=str(other))
    with pytest.raises(ModelError, match="does not fit its base model"):
        materialise(str(folder), tmp_path / "cache")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="does not name a base_model_name_or_path"):
        already_here(str(folder), tmp_path / "cache")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="no adapter_model"):
        materialise(str(folder), tmp_path / "cache")
