"""Every model type we vouch for, against the logits that transformers computes; everything else is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig

from gkd_dist.engines.families import family_at
from gkd_dist.engines.probes import readout_error
from gkd_dist.errors import ModelError
from gkd_dist.teachers.readout import load_readout
from gkd_dist.teachers.verified import FACTORS, VERIFIED, check_readout
from tests.unit.teachers.small_models import save

SLOW_TYPES = (
    *("bamba", "cpmant", "falcon_h1", "granitemoehybrid", "inkling_text", "jetmoe", "kimi_linear", "longcat_flash"),
    *("mamba2", "nemotron_h", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp_text"),
)
"""Seconds each, most of them in chunked scans that are loops on a CPU."""
COMMON_TYPES = ("cohere", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "opt", "phi", "qwen2", "qwen3")


@pytest.mark.parametrize(
    "model_type", [pytest.param(each, marks=pytest.mark.slow if each in SLOW_TYPES else ()) for each in VERIFIED]
)
def test_the_readout_of_a_verified_type_gives_the_models_own_logits(model_type: str, tmp_path: Path) -> None:
    """To 1e-4: float32 products in two orders; the logits themselves reach several units."""
    model = save(tmp_path, model_type, is_encoder_decoder=False)
    check_readout(tmp_path)
    readout = load_readout(tmp_path, dtype="float32")
    assert readout_error(model, readout, family_at(tmp_path)) < 1e-4
    assert readout_error(model, replace(readout, weight=readout.weight.flip(0)), family_at(tmp_path)) > 1e-2
    for key, types in FACTORS.items():
        if model_type in types and getattr(model.config, key) not in (None, 1.0):
            assert readout_error(model, replace(readout, logit_scale=1.0, soft_cap=None), family_at(tmp_path)) > 1e-2


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("model_type", COMMON_TYPES)
def test_a_head_may_be_tied_or_not(model_type: str, tied: bool, tmp_path: Path) -> None:
    model = save(tmp_path, model_type, tie_word_embeddings=tied)
    assert readout_error(model, load_readout(tmp_path, dtype="float32"), family_at(tmp_path)) < 1e-4


@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        ("roberta", {"is_decoder": True}, "model type roberta"),
        ("llama", {"logit_scale": 2.0}, "logit_scale, which llama does not know"),
        ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim"),
    ],
)
def test_a_readout_that_nobody_compared_is_refused_by_name(
    model_type: str, changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    save(tmp_path, model_type, **changes)
    with pytest.raises(ModelError, match=f"not verified.*{reason}.*teacher.engine=hf teacher.transport=full"):
        check_readout(tmp_path)


def test_an_architecture_that_is_not_the_types_own_is_refused(tmp_path: Path) -> None:
    """vLLM chooses its model by architecture, whatever the model type says."""
    save(tmp_path, "llama")
    config = AutoConfig.from_pretrained(tmp_path)
    config.architectures = ["LlamaForSequenceClassification"]
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="LlamaForSequenceClassification is not LlamaForCausalLM"):
        check_readout(tmp_path)


def test_a_readout_of_another_width_is_infinitely_wrong(tmp_path: Path) -> None:
    model = save(tmp_path / "a", "llama")
    save(tmp_path / "b", "llama", hidden_size=16)
    assert readout_error(model, load_readout(tmp_path / "b", dtype="float32"), family_at(tmp_path / "a")) == float(
        "inf"
    )
