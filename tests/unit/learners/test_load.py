"""A student from its folder and back: nothing dropped, nothing lost."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, LlamaModel, OPTConfig, OPTForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from gkd_dist.errors import ModelError
from gkd_dist.learners.checkpoint import save_student
from gkd_dist.learners.load import load_student
from tests import tiny

SAMPLING = '{"temperature":0.6,  "top_p":0.9,"eos_token_id":1}'
"""As published with many models: transformers loads it and refuses to write it, since do_sample is missing."""


def save_llama(path: Path, **changes: object) -> Path:
    tiny.save_causal(path, seed=5)
    text = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(text | changes))
    return path


def save_opt(path: Path) -> Path:
    torch.manual_seed(5)
    config = OPTConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        dropout=0.1,
        attention_dropout=0.2,
        layerdrop=0.3,
        pad_token_id=tiny.PAD,
        bos_token_id=None,
        eos_token_id=tiny.STOP,
    )
    OPTForCausalLM(config).save_pretrained(path)
    tiny.save_tokenizer(path)
    return path


def test_a_generation_config_that_transformers_refuses_to_write_is_copied(tmp_path: Path) -> None:
    source, target = tiny.save_causal(tmp_path / "source", seed=5), tmp_path / "saved"
    (source / "generation_config.json").write_text(SAMPLING)
    student = load_student(source, gradient_checkpointing=False)
    save_student(student, target, source=source)
    assert (target / "generation_config.json").read_text() == SAMPLING
    assert student.model.generation_config.temperature == 0.6
    reloaded = dict(AutoModelForCausalLM.from_pretrained(target).named_parameters())
    assert all(torch.equal(reloaded[name], tensor) for name, tensor in student.named_parameters())
    load_student(target, gradient_checkpointing=False)


def test_a_source_without_generation_config_gives_a_student_without(tmp_path: Path) -> None:
    """A neutral one would hide the stop token, which transformers otherwise takes from config.json."""
    source, target = tiny.save_causal(tmp_path / "source", seed=5), tmp_path / "saved"
    (source / "generation_config.json").unlink()
    save_student(load_student(source, gradient_checkpointing=False), target, source=source)
    assert not (target / "generation_config.json").exists()
    assert AutoModelForCausalLM.from_pretrained(target).generation_config.eos_token_id == tiny.STOP


def test_what_a_killed_save_has_left_goes_with_the_next(tmp_path: Path) -> None:
    source, left = tiny.save_causal(tmp_path / "source", seed=5), tmp_path / "run" / ".saved.12345.tmp"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half a model")
    save_student(load_student(source, gradient_checkpointing=False), tmp_path / "run" / "saved", source=source)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["saved"]


def test_a_student_that_could_not_be_saved_is_refused_before_training(tmp_path: Path) -> None:
    path = tiny.save_causal(tmp_path / "untokenized", seed=5)
    for file in path.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="untokenized could be trained but not saved"):
        load_student(path, gradient_checkpointing=False)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_nothing_is_dropped_and_the_saved_student_has_its_dropout_back(
    kind: str, checkpointing: bool, tmp_path: Path
) -> None:
    """OPT drops by functions of its own, Llama in attention: neither has a module that says so."""
    path = tmp_path / "source"
    save_opt(path) if kind == "opt" else save_llama(path, attention_dropout=0.1)
    student = load_student(path, gradient_checkpointing=checkpointing)
    assert student.model.training is checkpointing
    student.model.train()
    ids = torch.arange(2, 34)[None]
    first, second = (student.states(input_ids=ids) for _ in range(2))
    assert torch.equal(first, second)
    with student.evaluating():
        assert not student.model.training
    assert student.model.training

    save_student(student, tmp_path / "saved", source=path)
    original, saved = AutoConfig.from_pretrained(path), AutoConfig.from_pretrained(tmp_path / "saved")
    for key in ("dropout", "attention_dropout", "layerdrop"):
        assert getattr(saved, key, None) == getattr(original, key, None)
    assert saved.attention_dropout > 0
    assert saved.use_cache
    assert student.model.config.attention_dropout == 0


def test_a_forward_that_stays_random_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout that no key of the configuration switches off."""
    path, own = tiny.save_causal(tmp_path / "noisy", seed=5), LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: F.dropout(own(self, x), 0.1, self.training))
    load_student(path, gradient_checkpointing=False)
    with pytest.raises(ModelError, match=r"noisy \(LlamaForCausalLM\): two forwards"):
        load_student(path, gradient_checkpointing=True)


def test_a_head_that_the_readout_does_not_reproduce_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not readout"):
        load_student(save_llama(tmp_path, logit_scale=3.0), gradient_checkpointing=False)


def test_the_device_is_where_the_model_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU only the request can be seen."""
    path, moved = tiny.save_causal(tmp_path, seed=5), []
    own = LlamaModel.to
    target = "transformers.modeling_utils.PreTrainedModel.to"
    monkeypatch.setattr(target, lambda self, device: moved.append(device) or own(self, "cpu"))
    load_student(path, gradient_checkpointing=False, device="cuda")
    assert moved == ["cuda"]


def test_dropout_is_on_where_it_learns_alone_and_not_in_what_is_saved(tmp_path: Path) -> None:
    path = save_opt(tmp_path / "source")
    student = load_student(path, gradient_checkpointing=False, dropout=0.3, seed=7)
    again = load_student(path, gradient_checkpointing=False, dropout=0.3, seed=7)
    ids = torch.arange(2, 34)[None]
    torch.manual_seed(0)
    first, second = (student.states(input_ids=ids) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(again.states(input_ids=ids), first)
    plain = load_student(path, gradient_checkpointing=False)
    with student.evaluating():
        torch.testing.assert_close(student.states(input_ids=ids), plain.states(input_ids=ids))
    assert student.model.config.layerdrop == 0  # whole layers are another thing than the share of units
    save_student(student, tmp_path / "saved", source=path)
    original, saved = AutoConfig.from_pretrained(path), AutoConfig.from_pretrained(tmp_path / "saved")
    assert (saved.dropout, saved.attention_dropout) == (original.dropout, original.attention_dropout)
    assert (student.model.config.dropout, student.model.config.attention_dropout) == (0.3, 0.3)


def test_dropout_that_no_configuration_knows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny.save_causal(tmp_path / "student")
    monkeypatch.setattr("gkd_dist.learners.load.dropout_values", lambda config: {})
    with pytest.raises(ModelError, match=r"learner\.dropout is 0\.1, but no key of .*student/config\.json drops"):
        load_student(path, gradient_checkpointing=False, dropout=0.1)
