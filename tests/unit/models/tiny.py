"""Tiny random causal models, made in milliseconds."""

from collections.abc import Callable

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

NUM_LAYERS = 5
VOCABULARY = 258


def tiny_llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=257,
            pad_token_id=256,
            initializer_range=0.3,
        )
    )


def tiny_qwen2() -> PreTrainedModel:
    """Sliding attention in layers 1, 3 and 4: a wrong trim of `layer_types` changes its logits."""
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            use_sliding_window=True,
            sliding_window=4,
            layer_types=types,
            eos_token_id=257,
            pad_token_id=256,
            initializer_range=0.3,
        )
    )


def tiny_gpt2(**changes: bool) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=16,
            n_layer=NUM_LAYERS,
            n_head=2,
            n_positions=512,
            eos_token_id=257,
            pad_token_id=256,
            bos_token_id=257,
            initializer_range=0.3,
            **changes,
        )
    )


def seeded(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """`build()` in evaluation mode with the same weights every time; leaves the global generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return build().eval()
