"""Models that nobody has trained yet: random weights, and a tokenizer of the run's own text (floor F3).

What is made is kept in the cache. The same text, sizes and seed give the same folder; the same text gives the same
tokenizer, whatever the other sizes, so that a teacher and a student made from one data set fit together.
"""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig

from gkd_dist.config.models import ScratchConfig
from gkd_dist.errors import ConfigError, ModelError
from gkd_dist.models.folders import cache_key, cached, is_whole
from gkd_dist.models.vocabulary import VERSION, train_tokenizer

_OF_TOKENIZER = ("vocab_size", "pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id")
"""Keys of a model's configuration that follow from its tokenizer."""


def check_scratch(model_type: str, scratch: ScratchConfig) -> None:
    """Raise ConfigError with everything that transformers does not know of such a model."""
    known = _configuration(model_type, {})
    problems = []
    for key in scratch.config:
        if key in _OF_TOKENIZER:
            problems.append(f"student.scratch.config.{key}: follows from the tokenizer; remove it")
        elif not hasattr(known, key):
            near = difflib.get_close_matches(key, known.to_dict(), n=1)
            hint = f"did you mean {near[0]}?" if near else "remove it"
            problems.append(f"student.scratch.config.{key}: transformers' {model_type} has no such key; {hint}")
    if problems:
        raise ConfigError(problems)


@dataclass(frozen=True)
class ScratchModel:
    """What a new model is made from."""

    model_type: str
    """As transformers calls it: `t5`, `llama`, ..."""
    scratch: ScratchConfig
    texts: Sequence[str]
    """Prompts and completions, for the tokenizer."""
    seed: int
    """Of the weights."""
    cache_dir: Path

    @property
    def folder(self) -> Path:
        """Where it is, or will be."""
        digest = hashlib.sha256()
        for text in self.texts:
            content = text.encode()
            digest.update(len(content).to_bytes(8, "little") + content)
        facts = {
            "sizes": self.scratch.model_dump(),
            "seed": self.seed,
            "texts": digest.hexdigest(),
            "tokenizer": VERSION,
        }
        return self.cache_dir / "models" / f"scratch-{self.model_type}-{cache_key(facts)}"

    @property
    def is_made(self) -> bool:
        return is_whole(self.folder)

    def make(self) -> Path:
        """Its folder, with the model in it.

        Raises:
            ModelError: sizes that make no model, or a type that is no language model.
        """
        return cached(self.folder, self._write)

    def _write(self, folder: Path) -> Mapping[str, Any]:
        reads_apart = _configuration(self.model_type, {}).is_encoder_decoder
        tokenizer = train_tokenizer(self.texts, self.scratch.vocab_size, ends_prompts=reads_apart)
        pad = tokenizer.pad_token_id
        ids = {
            "vocab_size": len(tokenizer),
            "pad_token_id": pad,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
            **({"decoder_start_token_id": pad} if reads_apart else {}),
        }
        config = _configuration(self.model_type, {**self.scratch.config, **ids})
        kind = AutoModelForSeq2SeqLM if reads_apart else AutoModelForCausalLM
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                model = kind.from_config(config)
        except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
            raise ModelError(
                f"student.scratch.config: transformers makes no {self.model_type} of it: {error}"
            ) from error
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {"type": self.model_type, "seed": self.seed, "num_parameters": model.num_parameters()}


def _configuration(model_type: str, values: Mapping[str, Any]) -> PretrainedConfig:
    """
    Raises:
        ConfigError: a type that transformers does not know, or values that it refuses.
    """
    try:
        return AutoConfig.for_model(model_type, **values)
    except Exception as error:  # whatever a configuration may raise: what it refuses is the user's to change
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ConfigError(
            [f"student.model: transformers makes no configuration of scratch:{model_type}: {reason}"]
        ) from error
