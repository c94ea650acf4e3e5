"""The head read alone from a checkpoint: encoder-decoders, old names, stale heads, and what is missing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from gkd_dist.engines.families import family_at
from gkd_dist.engines.probes import readout_error
from gkd_dist.errors import ModelError
from gkd_dist.teachers.readout import load_readout
from tests.unit.teachers.small_models import save

ENCODER_DECODERS = ("bart", "longt5", "m2m_100", "marian", "mbart", "mt5", "pegasus", "t5", "umt5")


@pytest.mark.parametrize("model_type", ENCODER_DECODERS)
def test_the_readout_of_an_encoder_decoder_gives_its_own_logits(model_type: str, tmp_path: Path) -> None:
    """BART's kind has a bias in a buffer; the states are the decoder's. To 1e-4 as for causal models."""
    model = save(tmp_path, model_type, is_encoder_decoder=True)
    assert readout_error(model, load_readout(tmp_path, dtype="float32"), family_at(tmp_path)) < 1e-4


@pytest.mark.parametrize(("version", "scale"), [("1.0", 32**-0.5), ("1.1", 1.0)])
def test_t5_of_version_1_0_is_scaled_and_1_1_is_not(version: str, scale: float, tmp_path: Path) -> None:
    """A published config of 1.1 (and Flan-T5) says so by tie_word_embeddings: false, beside a head of its own."""
    save(tmp_path, "t5", is_encoder_decoder=True)
    if version == "1.1":
        edit_config(tmp_path, tie_word_embeddings=False, scale_decoder_outputs=None)
        edit_tensors(tmp_path, lambda tensors: tensors | {"lm_head.weight": torch.randn_like(tensors["shared.weight"])})
    readout = load_readout(tmp_path, dtype="float32")
    assert readout.logit_scale == pytest.approx(scale)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert readout_error(model, readout, family_at(tmp_path)) < 1e-4


def test_only_the_head_is_read(tmp_path: Path) -> None:
    """Every other tensor is gone from the checkpoint, and its body could not be loaded."""
    model = save(tmp_path, "llama", tie_word_embeddings=False)
    edit_tensors(tmp_path, lambda tensors: {"lm_head.weight": tensors["lm_head.weight"]})
    assert readout_error(model, load_readout(tmp_path, dtype="float32"), family_at(tmp_path)) < 1e-4


def test_the_other_shards_are_not_opened(tmp_path: Path) -> None:
    model = save(tmp_path, "llama", tie_word_embeddings=False)
    whole = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    head = {"lm_head.weight": whole.pop("lm_head.weight")}
    save_file(head, tmp_path / "head.safetensors", metadata={"format": "pt"})
    places = dict.fromkeys(whole, "body.safetensors") | {"lm_head.weight": "head.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert readout_error(model, load_readout(tmp_path, dtype="float32"), family_at(tmp_path)) < 1e-4


def test_a_checkpoint_of_a_bare_body_has_names_without_prefix(tmp_path: Path) -> None:
    """As GPT-2's own: `wte.weight`."""
    model = save(tmp_path, "gpt2")
    edit_tensors(tmp_path, lambda tensors: {name.removeprefix("transformer."): each for name, each in tensors.items()})
    assert readout_error(model, load_readout(tmp_path, dtype="float32"), family_at(tmp_path)) < 1e-4


def test_a_head_that_differs_from_what_it_is_tied_to_is_the_one_that_transformers_uses(tmp_path: Path) -> None:
    save(tmp_path, "llama", tie_word_embeddings=True)
    edit_tensors(
        tmp_path, lambda tensors: tensors | {"lm_head.weight": torch.randn_like(tensors["model.embed_tokens.weight"])}
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert readout_error(model, load_readout(tmp_path, dtype="float32"), family_at(tmp_path)) < 1e-4


def test_a_checkpoint_without_its_head_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "headless", "llama", tie_word_embeddings=False)
    edit_tensors(tmp_path / "headless", lambda tensors: {"model.norm.weight": tensors["model.norm.weight"]})
    with pytest.raises(ModelError, match=r"headless: no LM head among its tensors \(looked for lm_head.weight"):
        load_readout(tmp_path / "headless", dtype="float32")


def test_a_model_without_a_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="vit is no language model"):
        load_readout(tmp_path, dtype="float32")


def edit_tensors(path: Path, edit) -> None:
    file = path / "model.safetensors"
    save_file(edit(load_file(file)), file, metadata={"format": "pt"})


def edit_config(path: Path, **changes: object) -> None:
    """Keys set to None are removed."""
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
