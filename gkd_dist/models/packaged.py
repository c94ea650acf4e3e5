"""Turns a model reference into a local Hugging Face folder (floor F3).

| reference | becomes |
| --- | --- |
| a local folder | itself, after a look inside |
| a local folder with a peft adapter | the base model that it names with the adapter added, merged once into the cache |
| `package:NAME` | the GGUF file of the installed Python distribution NAME, converted once into the cache |
| a hub name | the snapshot that huggingface_hub downloads or has downloaded |
"""

import base64
import copy
import hashlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from gkd_dist.errors import ModelError
from gkd_dist.models.adapters import base_of, is_adapter, merge, merged_name
from gkd_dist.models.folders import cache_key, cached, default_cache_dir, is_whole

__all__ = ["materialise", "already_here", "default_cache_dir", "check_model_folder"]

PACKAGE_PREFIX = "package:"
_HUB_WEIGHTS = "*.safetensors"
HUB_FILES = ("*.json", _HUB_WEIGHTS, "*.model", "*.txt", "*.jinja")
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
WEIGHTS_FILE = "model.safetensors"
_READERS = ("gguf", "accelerate")
_GET_READER = "`pip install 'gkd-dist[quickstart]'`"


def materialise(reference: str, cache_dir: Path, *, weights: bool = True) -> Path:
    """A local folder with config.json, weights and tokenizer that transformers and vLLM load.

    Args:
        reference: a local folder of a model or an adapter, a hub name, or `package:NAME`.
        cache_dir: where converted packages are kept; see `default_cache_dir`. Hub snapshots stay in the hub's cache.
        weights: False where config.json and tokenizer will do; none are downloaded then.

    Raises:
        ModelError: nothing there, something missing in it, or it cannot be fetched; the message says what to do.
    """
    if reference.startswith(PACKAGE_PREFIX):
        return _from_package(reference.removeprefix(PACKAGE_PREFIX), cache_dir)
    folder = Path(reference).expanduser()
    if is_adapter(folder):
        return _from_adapter(folder, cache_dir)
    if folder.exists():
        check_model_folder(folder, weights=weights)
        return folder
    if _HUB_NAME.fullmatch(reference) is None:
        raise ModelError(
            f"{reference!r} is no folder here and cannot be a hub name; "
            "give an existing folder, a hub name such as owner/model, or package:NAME"
        )
    return _from_hub(reference, weights)


def already_here(reference: str, cache_dir: Path, *, weights: bool = True) -> Path | None:
    """What `materialise` would return, where that takes neither a conversion nor a look at the hub; else None.

    Raises:
        ModelError: the folder or the package will never do.
    """
    if reference.startswith(PACKAGE_PREFIX):
        target = _target(_packaged_file(reference.removeprefix(PACKAGE_PREFIX)), cache_dir)
        if is_whole(target):
            return target
        _check_reader()
        return None
    if is_adapter(folder := Path(reference).expanduser()):
        base = already_here(base_of(folder), cache_dir)
        target = None if base is None else _merged(folder, base, cache_dir)
        return target if target is not None and is_whole(target) else None
    return materialise(reference, cache_dir, weights=weights) if is_local(reference) else None


def packaged_config(reference: str) -> dict[str, Any]:
    """What will stand in the config.json of a packaged model, whether it is converted yet or not; no weights are read.

    Raises:
        ModelError: there is no such package, or its file cannot be read.
    """
    source = _packaged_file(reference.removeprefix(PACKAGE_PREFIX))
    _check_reader()
    try:
        return dict(AutoConfig.from_pretrained(source.path.parent, gguf_file=source.path.name).to_dict())
    except (ValueError, NotImplementedError, OSError) as error:
        raise ModelError(f"transformers cannot read {source.path}: {error}") from error


def is_converted(reference: str) -> bool:
    """Whether `materialise` has to write something of its own for it."""
    return reference.startswith(PACKAGE_PREFIX) or is_adapter(Path(reference).expanduser())


def is_local(reference: str) -> bool:
    """Whether the reference is a folder here, or can be nothing else."""
    return Path(reference).expanduser().exists() or _HUB_NAME.fullmatch(reference) is None


def check_model_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise ModelError saying what `folder` lacks to be a Hugging Face model, with or without its weights."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; give the folder that holds config.json and the weights")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give a folder written by save_pretrained")
    if not weights or (folder / WEIGHTS_FILE).is_file():
        return
    index = folder / f"{WEIGHTS_FILE}.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise ModelError(f"{folder} lacks weight files that {index.name} names: {', '.join(missing)}")
        return
    if pickles := sorted(path.name for path in folder.glob("pytorch_model*.bin")):
        raise ModelError(
            f"{folder} has its weights in {pickles[0]}, a pickle, which can run code when it is read; where you trust "
            "it, load it with transformers and save it anew (save_pretrained writes model.safetensors)"
        )
    raise ModelError(f"{folder} has a config.json but no weights (model.safetensors); copy or download them there")


def _from_hub(name: str, weights: bool) -> Path:
    patterns = [pattern for pattern in HUB_FILES if weights or pattern != _HUB_WEIGHTS]
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"there is no folder {name!r} here, and the hub did not give a model of that name ({reason}); "
            "check the name, go online or log in with `hf auth login`, or download it elsewhere and give its folder"
        ) from error
    check_model_folder(folder, weights=weights)
    return folder


def _from_adapter(folder: Path, cache_dir: Path) -> Path:
    base = materialise(base_of(folder), cache_dir)
    return cached(_merged(folder, base, cache_dir), partial(merge, folder, base))


def _merged(folder: Path, base: Path, cache_dir: Path) -> Path:
    return cache_dir / "models" / merged_name(folder, base)


def _from_package(name: str, cache_dir: Path) -> Path:
    source = _packaged_file(name)
    facts = _facts(source)

    def write(folder: Path) -> Mapping[str, Any]:
        with source.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
        if source.recorded_sha256 not in (None, digest):
            raise ModelError(
                f"{source.path} is not the file that was installed; "
                f"run `pip install --force-reinstall --no-deps {name}`"
            )
        _convert(source.path, folder)
        return {**facts, "source_sha256": digest.hex()}

    return cached(_target(source, cache_dir), write)


def _target(source: "_PackagedFile", cache_dir: Path) -> Path:
    return cache_dir / "models" / f"{source.package}-{source.version}-{cache_key(_facts(source))}"


def _facts(source: "_PackagedFile") -> dict[str, Any]:
    return {
        "package": source.package,
        "version": source.version,
        "source": source.path.name,
        "source_bytes": source.path.stat().st_size,
    }


@dataclass(frozen=True)
class _PackagedFile:
    """The only GGUF file of an installed distribution."""

    package: str
    version: str
    path: Path
    recorded_sha256: bytes | None
    """What the installer wrote into RECORD; None where it wrote no digest."""


def _packaged_file(name: str) -> _PackagedFile:
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        also = f", and {_GET_READER}" if _lacks_reader() else ""
        raise ModelError(f"the package {name} is not installed; run `pip install --no-deps {name}`{also}") from None
    found = [entry for entry in distribution.files or () if entry.suffix == ".gguf"]
    if len(found) != 1:
        names = ", ".join(entry.name for entry in found) or "none"
        raise ModelError(f"the package {name} must carry one .gguf file, found: {names}; convert it by hand")
    entry = found[0]
    path = Path(str(entry.locate()))
    if not path.is_file():
        raise ModelError(f"{path} is missing; run `pip install --force-reinstall --no-deps {name}`")
    recorded = None
    if entry.hash is not None and entry.hash.mode == "sha256":
        # RECORD files hold URL-safe base64 without padding.
        recorded = base64.urlsafe_b64decode(entry.hash.value + "=" * (-len(entry.hash.value) % 4))
    return _PackagedFile(distribution.metadata["Name"], distribution.version, path, recorded)


def _convert(source: Path, folder: Path) -> None:
    """Write the GGUF model as plain bfloat16 safetensors with its tokenizer.

    bfloat16 halves disk and load time; its rounding (2**-9 relative) is far below that of a 4-bit source.
    """
    _check_reader()
    try:
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    except (ValueError, NotImplementedError, OSError) as error:
        raise ModelError(f"transformers cannot read {source}: {error}") from error
    _plain(model).save_pretrained(folder)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)


def _lacks_reader() -> bool:
    """Whether packages are missing that transformers reads GGUF with."""
    return any(importlib.util.find_spec(name) is None for name in _READERS)


def _check_reader() -> None:
    if _lacks_reader():
        raise ModelError(f"reading a GGUF model needs the packages {' and '.join(_READERS)}; run {_GET_READER}")


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """A bfloat16 copy of `model` that forgot its quantisation: transformers refuses to save quantised GGUF models."""
    config = copy.deepcopy(model.config)
    del config.quantization_config
    with torch.device("meta"):  # no initial values to draw: every parameter is assigned below
        plain = type(model)(config)
    plain.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}, assign=True)
    plain.tie_weights()
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain
