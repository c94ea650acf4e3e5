"""Models from scratch: repeatable, with a tokenizer that knows every text."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

from gkd_dist.config.models import ScratchConfig
from gkd_dist.errors import ConfigError, ModelError
from gkd_dist.models.scratch import ScratchModel, check_scratch
from gkd_dist.models.vocabulary import train_tokenizer

TEXTS = [f"A dog number {number} runs over the grass." for number in range(50)] + ["Ein Hund läuft über das Gras."]
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def new(folder: Path, model_type: str = "t5", *, seed: int = 0, vocab_size: int = 300, **sizes: int) -> ScratchModel:
    config = {**(T5 if model_type == "t5" else LLAMA), **sizes}
    return ScratchModel(model_type, ScratchConfig(vocab_size=vocab_size, config=config), TEXTS, seed, folder)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 320, ends_prompts=True)


def test_an_encoder_decoder_is_made_as_t5_is(tmp_path: Path) -> None:
    scratch = new(tmp_path)
    assert not scratch.is_made
    folder = scratch.make()
    assert scratch.is_made and folder == scratch.folder
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    config = model.config
    assert (config.pad_token_id, config.eos_token_id, config.decoder_start_token_id) == (0, 1, 0)
    assert config.vocab_size == len(tokenizer) == 300
    assert tokenizer("grass")["input_ids"][-1] == 1
    assert tokenizer("grass", add_special_tokens=False)["input_ids"][-1] != 1


def test_a_causal_model_has_prompts_that_do_not_end(tmp_path: Path) -> None:
    folder = new(tmp_path, "llama").make()
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == 300
    assert AutoTokenizer.from_pretrained(folder)("grass")["input_ids"][-1] != 1


def test_the_same_seed_gives_the_same_model_and_another_one_other_weights(tmp_path: Path) -> None:
    one, again, other = (new(tmp_path / name, seed=seed).make() for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    torch.manual_seed(17)  # whatever was drawn before
    weights = [dict(AutoModelForSeq2SeqLM.from_pretrained(path).named_parameters()) for path in (one, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["shared.weight"], weights[2]["shared.weight"])
    texts = [(path / "tokenizer.json").read_text() for path in (one, again, other)]
    assert texts[0] == texts[1] == texts[2]


def test_making_one_leaves_the_random_state_alone(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    new(tmp_path, seed=5).make()
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes_text_and_seed_have_folders_of_their_own(tmp_path: Path) -> None:
    base = new(tmp_path)
    others = [
        new(tmp_path, seed=1),
        new(tmp_path, vocab_size=301),
        new(tmp_path, num_layers=2),
        replace(base, texts=TEXTS[1:]),
        replace(base, texts=["".join(TEXTS[:2]), *TEXTS[2:]]),
    ]
    assert len({each.folder for each in [base, *others]}) == 6
    assert new(tmp_path).folder == base.folder


def test_models_of_other_sizes_share_their_tokenizer(tmp_path: Path) -> None:
    small, large = new(tmp_path).make(), new(tmp_path, num_layers=3).make()
    assert (small / "tokenizer.json").read_text() == (large / "tokenizer.json").read_text()


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_every_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    special = {"<pad>", "</s>", "<unk>"}
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not any(word in text for word in special):
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_each_digit_is_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.tokenize("number 4711")
    assert tokens[-4:] == ["4", "7", "1", "1"]


def test_what_transformers_does_not_know_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_scratch("t5", ScratchConfig(vocab_size=300, config={"d_modle": 8, "vocab_size": 7, "zzz": 1}))
    assert list(caught.value.problems) == [
        "student.scratch.config.d_modle: transformers' t5 has no such key; did you mean d_model?",
        "student.scratch.config.vocab_size: follows from the tokenizer; remove it",
        "student.scratch.config.zzz: transformers' t5 has no such key; remove it",
    ]
    with pytest.raises(ConfigError, match="no configuration of scratch:t6"):
        check_scratch("t6", ScratchConfig(vocab_size=300, config={}))


def test_sizes_that_make_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises((ModelError, ConfigError), match=r"makes no"):
        new(tmp_path, "llama", num_attention_heads=0).make()
    assert not new(tmp_path, "llama", num_attention_heads=0).is_made
