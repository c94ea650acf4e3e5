"""As much of `kustomize build` as deploy/kuberay uses; where kubectl is installed, a test compares the two."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
_LOCAL = "config.kubernetes.io/local-config"
_KNOWN = {
    "apiVersion", "kind", "resources", "components", "images", "patches", "replacements", "configMapGenerator",
    "generatorOptions",
}  # fmt: skip


def build(folder: Path) -> list[Object]:
    """Kubernetes objects of an overlay, by kind and name."""
    objects: list[Object] = []
    _accumulate(folder, objects)
    kept = [each for each in objects if _LOCAL not in (each["metadata"].get("annotations") or {})]
    return sorted(kept, key=lambda each: (each["kind"], each["metadata"]["name"]))


def read(path: Path) -> list[Object]:
    """The documents of a file; what stands under several names in it is copied."""
    documents = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return [json.loads(json.dumps(each)) for each in documents if each is not None]


def at(tree: Any, keys: Sequence[str]) -> Any:
    """What a path leads to; a number is the place in a list."""
    for key in keys:
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    return tree


def _accumulate(folder: Path, objects: list[Object]) -> None:
    (asked,) = read(folder / "kustomization.yaml")
    assert asked.keys() <= _KNOWN, asked.keys() - _KNOWN
    for name in asked.get("resources", ()):
        if (folder / name).is_dir():
            _accumulate(folder / name, objects)
        else:
            objects += read(folder / name)
    for each in asked.get("configMapGenerator", ()):
        assert asked["generatorOptions"] == {"disableNameSuffixHash": True}
        data = {name: (folder / name).read_text(encoding="utf-8") for name in each["files"]}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": each["name"]}, "data": data})
    for name in asked.get("components", ()):
        _accumulate(folder / name, objects)
    for each in asked.get("patches", ()):
        for operation in yaml.safe_load(each["patch"]):
            _patch(_select(objects, each["target"]), operation)
    for each in asked.get("replacements", ()):
        value = at(_select(objects, each["source"]), each["source"]["fieldPath"].split("."))
        for target in each["targets"]:
            for path in target["fieldPaths"]:
                _put(_select(objects, target["select"]), path.split("."), copy.deepcopy(value))
    for each in asked.get("images", ()):
        _rename(objects, each)


def _select(objects: Sequence[Object], target: Mapping[str, str]) -> Object:
    (found,) = (
        each for each in objects if (each["kind"], each["metadata"]["name"]) == (target["kind"], target["name"])
    )
    return found


def _patch(thing: Object, operation: Mapping[str, Any]) -> None:
    """One operation of RFC 6902."""
    keys = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    assert operation["op"] in ("add", "replace"), operation
    if operation["op"] == "replace":
        at(thing, keys)  # is there
    _put(thing, keys, operation["value"])


def _put(thing: Any, keys: Sequence[str], value: Any) -> None:
    parent, key = at(thing, keys[:-1]), keys[-1]
    parent[int(key) if isinstance(parent, list) else key] = value


def _rename(tree: Any, image: Mapping[str, str]) -> None:
    """Images of containers, wherever there are some."""
    for value in tree if isinstance(tree, list) else tree.values() if isinstance(tree, dict) else ():
        _rename(value, image)
    for container in tree.get("containers", ()) if isinstance(tree, dict) else ():
        if container["image"].partition(":")[0] == image["name"]:
            container["image"] = f"{image['newName']}:{image['newTag']}"
