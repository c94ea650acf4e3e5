"""Fixtures: the tiny models of `tiny.py` and a tokenizer of single bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .tiny import seeded, tiny_gpt2, tiny_llama, tiny_qwen2


@pytest.fixture(params=[tiny_llama, tiny_qwen2, tiny_gpt2], ids=["llama", "qwen2", "gpt2"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return seeded(request.param)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)} | {"<pad>": 256, "<end>": 257}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", eos_token="<end>")


@pytest.fixture
def saved(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[[PreTrainedModel], Path]:
    """Writes a model with its tokenizer into a new folder."""

    def save(model: PreTrainedModel) -> Path:
        folder = tmp_path / f"source-{model.config.model_type}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save
