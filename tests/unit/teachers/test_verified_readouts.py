"""Every model type we vouch for, against the logits that transformers computes; everything else is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from gkd_dist.divergences.readout import readout_error
from gkd_dist.errors import ModelError
from gkd_dist.teachers.readout import load_readout
from gkd_dist.teachers.verified import VERIFIED, check_readout

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
OWN = {
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "gemma2": {"final_logit_softcapping": 3.0},
    "gemma3_text": {"final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 4.0},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


def save(path: Path, model_type: str, **changes: object) -> Path:
    """A small checkpoint with random weights, its head's bias (Phi) and its norms among them."""
    torch.manual_seed(4)
    config: PretrainedConfig = AutoConfig.for_model(model_type, **(COMMON | OWN.get(model_type, {}) | changes))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("model_type", VERIFIED)
def test_the_readout_of_a_verified_type_gives_the_models_own_logits(
    model_type: str, tied: bool, tmp_path: Path
) -> None:
    """To 1e-4: float32 products in two orders; the logits themselves reach several units."""
    path = save(tmp_path, model_type, tie_word_embeddings=tied)
    check_readout(path)
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    readout = load_readout(path, dtype="float32")
    assert readout_error(model, readout) < 1e-4
    wrong = replace(readout, weight=readout.weight.flip(0))
    assert readout_error(model, wrong) > 1e-2


@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        ("bloom", {"n_layer": 1, "n_head": 2}, "model type bloom"),
        ("llama", {"logit_scale": 2.0}, "logit_scale, which llama does not know"),
        ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim"),
    ],
)
def test_a_readout_that_nobody_compared_is_refused_by_name(
    model_type: str, changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    path = save(tmp_path, model_type, **changes)
    with pytest.raises(ModelError, match=f"not verified.*{reason}.*teacher.engine=hf teacher.transport=full"):
        check_readout(path)


def test_an_architecture_that_is_not_the_types_own_is_refused(tmp_path: Path) -> None:
    """vLLM chooses its model by architecture, whatever the model type says."""
    path = save(tmp_path, "llama")
    config = AutoConfig.from_pretrained(path)
    config.architectures = ["LlamaForSequenceClassification"]
    config.save_pretrained(path)
    with pytest.raises(ModelError, match="LlamaForSequenceClassification is not LlamaForCausalLM"):
        check_readout(path)


def test_a_readout_of_another_width_is_infinitely_wrong(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(save(tmp_path / "a", "llama"))
    other = load_readout(save(tmp_path / "b", "llama", hidden_size=16), dtype="float32")
    assert readout_error(model, other) == float("inf")
