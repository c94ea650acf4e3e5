"""Depth pruning: a same-tokenizer student made by dropping decoder layers of a model (floor F3).

The result is a plain Hugging Face folder. Before it appears it is loaded again, and its KL to the full model must be
that of the full model with the layers bypassed: an architecture whose layers depend on their index is refused.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from gkd_dist.errors import ModelError
from gkd_dist.models.calibration import CALIBRATION, HELD_OUT
from gkd_dist.models.folders import cache_key, cached, require_free, write_whole
from gkd_dist.models.importance import RemovalMeter, encode_texts
from gkd_dist.models.layers import remove_layers
from gkd_dist.models.packaged import check_model_folder
from gkd_dist.models.selection import LayerChoice, choose_layers_to_drop, select_layers

__all__ = ["PruneReport", "check_request", "choose_layers_to_drop", "prune", "pruned_student"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")

SELECTION_VERSION = 1
"""Part of the cache key: raise it when another choice of layers may come out."""


@dataclass(frozen=True)
class PruneReport:
    """What a prune did."""

    dropped: tuple[int, ...]
    kept: tuple[int, ...]
    kl_nats: float
    """Forward KL from the full model to the student on held-out texts, nats per token."""
    num_parameters: int
    """Of the student; tied parameters count once."""
    seconds: float
    single_kl_nats: tuple[float, ...] | None = None
    """KL on the calibration texts when only this layer is dropped, by layer; None when the layers were given."""


def prune(source: Path, output: Path, num_layers: int, drop_layers: tuple[int, ...] | None = None) -> PruneReport:
    """Write to `output` the model in `source` with `num_layers` of its decoder layers.

    Runs on the CPU in the stored dtype. `output` appears whole or not at all.

    Args:
        source: local Hugging Face folder of a causal language model, with tokenizer.
        output: folder to make; absent or empty.
        num_layers: how many layers the student keeps.
        drop_layers: exactly these go; None measures which removals change the model least.

    Raises:
        ModelError: `source` or the numbers do not fit, the architecture cannot be pruned, or `output` is taken.
    """
    require_free(output)
    check_request(source, num_layers, drop_layers)
    reports: list[PruneReport] = []

    def write(folder: Path) -> Mapping[str, Any]:
        reports.append(_prune_into(folder, source, num_layers, drop_layers))
        return _facts(source, reports[0])

    write_whole(output, write)
    return reports[0]


def pruned_student(source: Path, num_layers: int, drop_layers: tuple[int, ...] | None, cache_dir: Path) -> Path:
    """The pruned model of `prune` from the cache, made on the first call; later calls take milliseconds.

    Raises:
        ModelError: as `prune`.
    """
    check_model_folder(source)
    wanted = sorted(drop_layers) if drop_layers is not None else SELECTION_VERSION
    key = cache_key({"source": _fingerprint(source), "num_layers": num_layers, "drop_layers": wanted})
    target = cache_dir / "models" / f"{source.resolve().name}-{num_layers}-layers-{key}"

    def write(folder: Path) -> Mapping[str, Any]:
        check_request(source, num_layers, drop_layers)
        return _facts(source, _prune_into(folder, source, num_layers, drop_layers))

    return cached(target, write)


def check_request(source: Path, num_layers: int, drop_layers: tuple[int, ...] | None) -> None:
    """Raise ModelError unless the model in `source` can lose these layers; reads its config alone."""
    check_model_folder(source)
    config = _load_config(source)
    total = getattr(config, "num_hidden_layers", None)
    if not isinstance(total, int) or getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{source} ({config.model_type}) is not a plain decoder; only causal models can be pruned")
    if not 1 <= num_layers < total:
        raise ModelError(f"{source} has {total} layers, cannot keep {num_layers}; choose 1 to {total - 1}")
    if drop_layers is None:
        return
    wrong = sorted({layer for layer in drop_layers if not 0 <= layer < total})
    if wrong:
        raise ModelError(f"{source} has no layers {wrong}; drop_layers takes 0 to {total - 1}")
    if len(set(drop_layers)) != len(drop_layers):
        raise ModelError(f"drop_layers {list(drop_layers)} names a layer twice; name each layer once")
    if len(drop_layers) != total - num_layers:
        raise ModelError(
            f"keeping {num_layers} of {total} layers drops {total - num_layers}, but drop_layers names "
            f"{len(drop_layers)}; change one of them"
        )


def _prune_into(folder: Path, source: Path, num_layers: int, drop_layers: tuple[int, ...] | None) -> PruneReport:
    start = time.perf_counter()
    model, tokenizer = _load_model(source), _load_tokenizer(source)
    total = model.config.num_hidden_layers
    choice: LayerChoice | None = None
    if drop_layers is None:
        choice = select_layers(RemovalMeter(model, encode_texts(tokenizer, CALIBRATION)), total - num_layers)
    dropped = choice.dropped if choice is not None else tuple(sorted(drop_layers or ()))
    meter = RemovalMeter(model, encode_texts(tokenizer, HELD_OUT))
    kl_nats = meter.rebase(dropped)
    remove_layers(model, dropped)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check_saved(folder, meter, kl_nats)
    return PruneReport(
        dropped=dropped,
        kept=tuple(layer for layer in range(total) if layer not in dropped),
        kl_nats=kl_nats,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=time.perf_counter() - start,
        single_kl_nats=choice.single_kl_nats if choice is not None else None,
    )


def _check_saved(folder: Path, meter: RemovalMeter, kl_nats: float) -> None:
    saved = _load_model(folder)
    found = meter.of(saved)
    # Same weights and same kernels: equal up to the rounding of a float32 mean, bfloat16 noise (1e-3) included.
    if not abs(found - kl_nats) <= 2e-3 + 0.01 * kl_nats:
        raise ModelError(
            f"{type(saved).__name__} cannot be pruned: saved and loaded again it differs from the full model by "
            f"{found:.3f} nats per token in place of {kl_nats:.3f}, so its layers depend on their index; "
            "use a smaller model of the same family as the student"
        )


def _facts(source: Path, report: PruneReport) -> dict[str, Any]:
    return {
        "pruned_from": source.resolve().name,
        "dropped": report.dropped,
        "kl_nats": report.kl_nats,
        "num_parameters": report.num_parameters,
    }


def _fingerprint(source: Path) -> str:
    """Changes when any file of the model does; reads no weights."""
    config = hashlib.sha256((source / "config.json").read_bytes()).hexdigest()
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(source.iterdir())]
    return f"{config} {stats}"


def _load_config(source: Path) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(source)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"transformers cannot read {source / 'config.json'}: {error}") from error


def _load_model(source: Path) -> PreTrainedModel:
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    except (ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"transformers cannot load {source} as a causal language model: {error}") from error
    return model.eval()


def _load_tokenizer(source: Path) -> PreTrainedTokenizerBase:
    if not any((source / name).is_file() for name in TOKENIZER_FILES):
        # transformers would make an empty tokenizer for some architectures.
        raise ModelError(f"{source} has no tokenizer ({', '.join(TOKENIZER_FILES)}); copy that of the model there")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"transformers cannot load the tokenizer in {source}: {error}; copy it there") from error
    return tokenizer
