"""A saved adapter as a whole model: its base with the adapter added (floor F3)."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from gkd_dist.engines.families import family_at
from gkd_dist.errors import ModelError
from gkd_dist.models.folders import cache_key

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_GENERATION = "generation_config.json"


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds a peft adapter and no model of its own."""
    return (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """Folder or hub name of the model that the adapter was trained on.

    Raises:
        ModelError: the folder does not say, or lacks its weights.
    """
    if not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(f"{folder} has an {CONFIG_FILE} but no {WEIGHTS_FILE}; copy or download it there")
    try:
        base = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}/{CONFIG_FILE} does not name a base_model_name_or_path ({error}); add it") from error
    if not isinstance(base, str) or not base:
        raise ModelError(f"{folder}/{CONFIG_FILE} does not name a base_model_name_or_path; add it")
    return base


def merged_name(folder: Path, base: Path) -> str:
    """Name of the whole model in a cache: another for every adapter and every base."""
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (CONFIG_FILE, WEIGHTS_FILE)]
    weights = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(base.glob("*.safetensors"))]
    return f"{folder.resolve().name}-merged-{cache_key({'adapter': digests, 'base': weights})}"


def merge(folder: Path, base: Path, target: Path) -> Mapping[str, Any]:
    """Write base plus adapter to `target`, in float32, with the adapter's tokenizer and generation config.

    Raises:
        ModelError: the adapter does not fit the base.
    """
    # Seconds to import, and most models are no adapters.
    from peft import PeftModel, get_peft_model_state_dict

    try:
        model = PeftModel.from_pretrained(family_at(base).load(base, dtype=torch.float32), folder)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"the adapter {folder} does not fit its base model {base}: {error}") from error
    with safe_open(folder / WEIGHTS_FILE, framework="np") as file:
        if strange := sorted(set(file.keys()) ^ get_peft_model_state_dict(model).keys()):  # peft only warns
            raise ModelError(f"the adapter {folder} does not fit its base model {base}, see {strange[0]}")
    model.merge_and_unload().save_pretrained(target)
    source = folder if (folder / "tokenizer_config.json").is_file() else base
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    (target / _GENERATION).unlink(missing_ok=True)
    for origin in (folder, base):
        if (origin / _GENERATION).is_file():
            shutil.copyfile(origin / _GENERATION, target / _GENERATION)
            break
    return {"adapter": str(folder), "base": str(base)}
