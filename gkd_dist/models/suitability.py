"""Whether a model folder will do for its role, seen from its config and the headers of its weights (floor F3).

No weight is read: what is found here is found before an engine starts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from gkd_dist.errors import ConfigError


def check_suitable(folder: Path, role: str, *, max_model_len: int, section: str, engine: str) -> None:
    """Raise ConfigError with all that keeps the model in `folder` from being a `role`.

    Args:
        role: `student` or `teacher`, for messages.
        max_model_len: positions the engine needs: longest prompt plus completion, or one more.
        section: of the configuration, whose engine and max_model_len these are: `sampler` or `teacher`.
        engine: what runs the model: `hf`, `vllm` or `server`.
    """
    problems = [f"{role}.model: {problem}" for problem in _unreadable_weights(folder)]
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            [*problems, f"{role}.model: transformers cannot read {folder}/config.json: {error}"]
        ) from error
    kind = ", ".join(config.architectures or ()) or config.model_type
    if not _is_language_model(config):
        problems.append(f"{role}.model: {folder} ({kind}) is no causal or encoder-decoder language model; choose one")
    elif config.is_encoder_decoder and engine != "hf":
        problems.append(
            f"{section}.engine: {engine} cannot run {folder} ({kind}), because vLLM has no encoder-decoder language "
            f"models; set {section}.engine=hf"
        )
    longest = _longest(config)
    if longest is not None and longest < max_model_len:
        problems.append(
            f"{section}.max_model_len: {max_model_len} is more than the {longest} positions of {folder}; lower it"
        )
    if problems:
        raise ConfigError(problems)


def check_vocabulary(folder: Path, role: str, num_ids: int) -> None:
    """Raise ConfigError when the tokenizer's `num_ids` ids are more than the model's logits."""
    size = AutoConfig.from_pretrained(folder).get_text_config().vocab_size
    if num_ids > size:
        raise ConfigError(
            [
                f"{role}.model: the tokenizer of {folder} has {num_ids} ids, but the model's vocab_size is {size}; "
                "give the tokenizer of this model, or resize its embeddings"
            ]
        )


def context_limit(folder: Path, max_new_tokens: int) -> int | None:
    """Longest prompt that leaves room for a completion, tokens; None where the model's positions have no end.

    An encoder has all positions for itself. The result may be below 1.
    """
    config = AutoConfig.from_pretrained(folder)
    longest = _longest(config)
    return longest if longest is None or config.is_encoder_decoder else longest - max_new_tokens


def _is_language_model(config: Any) -> bool:
    names = (
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    if config.architectures:
        return bool(set(_architectures(names)).intersection(config.architectures))
    return config.model_type in names


def _architectures(names: Mapping[str, str | tuple[str, ...]]) -> Iterator[str]:
    for each in names.values():
        yield from (each,) if isinstance(each, str) else each


def _longest(config: Any) -> int | None:
    """Positions that the model has; None where its config does not say, or stretches them by a rope factor."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    return None if "factor" in rope else getattr(text, "max_position_embeddings", None)


def _unreadable_weights(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            yield f"{path} is truncated or not a safetensors file ({error}); copy or download it again"
