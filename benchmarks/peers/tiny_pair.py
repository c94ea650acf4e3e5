"""A teacher and a student from random weights, with a tokenizer of one word per id, and rows for them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from work import Row

PAD, END, UNKNOWN, FIRST_WORD = 0, 1, 2, 3
WIDTH = {"student": 64, "teacher": 128}


@dataclass(frozen=True)
class Pair:
    student: Path
    teacher: Path


def save_pair(folder: Path, vocab_size: int) -> Pair:
    """Two layers each, hidden sizes 64 and 128; peaked enough that the two differ."""
    for seed, (name, width) in enumerate(WIDTH.items()):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            initializer_range=0.1,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=PAD,
        )
        LlamaForCausalLM(config).save_pretrained(folder / name)
        _tokenizer(vocab_size).save_pretrained(folder / name)
    return Pair(folder / "student", folder / "teacher")


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": PAD, "</s>": END, "<unk>": UNKNOWN} | {
        f"w{number}": number for number in range(FIRST_WORD, vocab_size)
    }
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def random_rows(number: int, vocab_size: int, completion_tokens: int, seed: int = 0) -> list[Row]:
    """Prompts of 8 to 24 words; completions of `completion_tokens`, of which the last one is the end."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        prompt = rng.integers(FIRST_WORD, vocab_size, int(rng.integers(8, 25))).tolist()
        completion = rng.integers(FIRST_WORD, vocab_size, completion_tokens - 1).tolist()
        text = " ".join(f"w{number}" for number in prompt)
        answer = " ".join(f"w{number}" for number in completion)
        rows.append(Row(text, answer, text, prompt, [*completion, END]))
    return rows
