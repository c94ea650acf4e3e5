"""Models and tokenizers small enough to be made in a test: random weights, real formats."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from gkd_dist.targets import TeacherTargets
from gkd_dist.types import (
    FinishReason,
    Prompt,
    SampleId,
    ScoredTrajectory,
    Source,
    TeacherScore,
    Trajectory,
    VersionRange,
)

VOCABULARY = 128
PAD, STOP = 0, 1
WORDS = ["<pad>", "</s>", "<unk>", *(f"w{number}" for number in range(3, VOCABULARY))]


def save_tokenizer(path: Path, words: list[str] | None = None) -> None:
    """A tokenizer that maps `w7` to id 7, split at white space."""
    vocabulary = {word: index for index, word in enumerate(words or WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    tokenizer.save_pretrained(path)


def save_causal(
    path: Path,
    *,
    seed: int = 0,
    num_layers: int = 2,
    vocab_size: int = VOCABULARY,
    tie_word_embeddings: bool = True,
) -> Path:
    """A Llama with random weights, peaked enough that its greedy choice is not decided by rounding."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=tie_word_embeddings,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=STOP,
        pad_token_id=PAD,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    save_tokenizer(path)
    return path


def poison_generation_config(path: Path) -> None:
    """Make the folder ask for everything that bends a distribution."""
    settings = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "top_k": 1, "eos_token_id": list(range(3, 40))}
    (path / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")


def save_t5(
    path: Path, *, seed: int = 0, vocab_size: int = VOCABULARY, tie_word_embeddings: bool = True, dropout: float = 0.0
) -> Path:
    """A T5 with random weights; untied it is one of version 1.1, which does not scale its decoder's states."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocab_size,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        dropout_rate=dropout,
        feed_forward_proj="relu" if tie_word_embeddings else "gated-gelu",
        tie_word_embeddings=tie_word_embeddings,
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        eos_token_id=STOP,
    )
    model = T5ForConditionalGeneration(config)
    if not tie_word_embeddings:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) / 4)
    model.save_pretrained(path)
    save_tokenizer(path)
    return path


def prompts(lengths: list[int], *, seed: int = 0, run: str = "test") -> list[Prompt]:
    """Random prompts of these lengths, without special tokens."""
    rng = np.random.default_rng(seed)
    return [
        Prompt(SampleId(run, index), rng.integers(3, VOCABULARY, length, dtype=np.int32))
        for index, length in enumerate(lengths)
    ]


def trajectories(shapes: list[tuple[int, int]], *, seed: int = 0) -> list[Trajectory]:
    """Random student trajectories of these (prompt, completion) lengths."""
    rng = np.random.default_rng(seed)
    return [
        Trajectory(
            sample_id=SampleId("test", index),
            prompt_ids=rng.integers(3, VOCABULARY, prompt, dtype=np.int32),
            completion_ids=rng.integers(3, VOCABULARY, completion, dtype=np.int32),
            source=Source.STUDENT,
            finish_reason=FinishReason.LENGTH,
            behaviour_log_probs=np.zeros(completion, dtype=np.float32),
            versions=VersionRange(0, 0),
        )
        for index, (prompt, completion) in enumerate(shapes)
    ]


def scored(trajectories: Sequence[Trajectory], targets: Sequence[TeacherTargets]) -> list[ScoredTrajectory]:
    """Each trajectory with the targets of one teacher, called `teacher`."""
    pairs = zip(trajectories, targets, strict=True)
    return [ScoredTrajectory(trajectory, (TeacherScore("teacher", item),)) for trajectory, item in pairs]
