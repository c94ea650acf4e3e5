"""Recipes: packaged YAML files and files of the user's, each perhaps on top of others (floor F1).

    extends: small/multi30k            # or a list; later ones win over earlier ones, this file over all of them
    learner: {max_steps: 100}

Mappings are merged key by key; everything else replaces what was there, null too (`validation` says where it is right).
On the command line `A+B` is B over A.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from gkd_dist.config.base import Strict
from gkd_dist.config.overrides import Tree, canonical_keys
from gkd_dist.config.schema import show
from gkd_dist.config.yaml_text import YamlTextError, parse_yaml
from gkd_dist.errors import ConfigError

_SUFFIX = ".yaml"


@dataclass(frozen=True)
class _Source:
    """One YAML file."""

    label: str
    """What to call it in messages."""
    text: str
    path: Path | None
    """None of a packaged recipe."""

    @property
    def folder(self) -> Path | None:
        """Where the paths in it start; None where it may name packaged recipes alone."""
        return None if self.path is None else self.path.parent

    def is_same(self, other: "_Source") -> bool:
        return (self.path or self.label) == (other.path or other.label)


def read_recipe(recipe: str, root: type[Strict], problems: list[str]) -> Tree:
    """The configuration tree of a recipe with all that it extends, by field names.

    Args:
        recipe: name of a packaged recipe, path of a YAML file, or several joined by `+`. The run is then named after
            all of them.
        root: the model of the whole tree.
        problems: receives unknown keys and the like.

    Raises:
        ConfigError: there is nothing that could be checked.
    """
    parts = [recipe] if Path(recipe).is_file() else recipe.split("+")
    if len(parts) > 1 and "" in parts:
        raise ConfigError([f"recipe {recipe}: between and beside `+` stand names, and one is missing"])
    trees = [_tree(_find(part, Path()), root, (), problems) for part in parts]
    tree = reduce(_laid_over, trees)
    names = [each["name"] for each in trees if isinstance(each.get("name"), str)]
    return tree | {"name": "-".join(names)} if len(parts) > 1 and names else tree


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted; those in folders as `FOLDER/NAME`."""
    return sorted(_names(_recipes()))


def recipe_text(name: str) -> str:
    """The YAML text of a packaged recipe.

    Raises:
        ConfigError: no recipe has that name.
    """
    if name not in recipe_names():
        raise ConfigError([_unknown(name)])
    return _recipes().joinpath(f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def recipe_summary(name: str) -> str:
    """The comment in the first line of a packaged recipe."""
    return recipe_text(name).partition("\n")[0].removeprefix("#").strip()


def _recipes() -> Traversable:
    return resources.files("gkd_dist") / "recipes"


def _names(folder: Traversable, prefix: str = "") -> list[str]:
    names = []
    for entry in folder.iterdir():
        if entry.is_dir():
            names += _names(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            names.append(prefix + entry.name.removesuffix(_SUFFIX))
    return names


def _find(recipe: str, folder: Path | None) -> _Source:
    """
    Args:
        folder: where a relative path starts; None where packaged recipes alone may be named.
    """
    if recipe in recipe_names():
        return _Source(f"recipe {recipe}", recipe_text(recipe), None)
    path = None if folder is None else folder / Path(recipe).expanduser()
    looks_like_path = recipe.endswith((_SUFFIX, ".yml", "/")) or recipe.startswith((".", "/", "~"))
    if path is None or not (looks_like_path or path.is_file()):
        raise ConfigError([_unknown(recipe)])
    try:
        return _Source(recipe, path.read_text(encoding="utf-8"), path.resolve())
    except FileNotFoundError:
        raise ConfigError([f"{recipe}: no such file; packaged recipes are {', '.join(recipe_names())}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{recipe}: not UTF-8 text (byte {error.start}); save it as UTF-8"]) from error
    except OSError as error:
        raise ConfigError([f"{recipe}: cannot be read: {error.strerror}"]) from error


def _tree(source: _Source, root: type[Strict], below: Sequence[_Source], problems: list[str]) -> Tree:
    """`source` on top of what it extends.

    Args:
        below: who extends it, the first that was read first.
    """
    content = _parsed(source)
    found: list[str] = []
    bases = [
        _tree(base, root, (*below, source), problems) for base in _bases(content.pop("extends", []), source, below)
    ]
    tree = canonical_keys(content, root, found)
    problems += [f"{line} (in {source.label})" if below else line for line in found]
    return reduce(_laid_over, [*bases, tree])


def _parsed(source: _Source) -> Tree:
    try:
        content = parse_yaml(source.text)
    except YamlTextError as error:
        raise ConfigError([f"{source.label}, line {error.line}, column {error.column}: {error.problem}"]) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError([f"{source.label}: must be a mapping of keys to values, got {show(content)}"])
    return content


def _bases(names: Any, source: _Source, below: Sequence[_Source]) -> list[_Source]:
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError([f"{source.label}: extends must name a recipe, or be a list of names, got {show(names)}"])
    bases = [_find(name, source.folder) for name in names]
    chain = [*below, source]
    for base in bases:
        again = next((place for place, each in enumerate(chain) if each.is_same(base)), None)
        if again is not None:
            labels = [each.label for each in [*chain[again:], base]]
            raise ConfigError([f"extends goes in a circle: {' -> '.join(labels)}; take one of them out"])
    return bases


def _laid_over(lower: Tree, upper: Tree) -> Tree:
    """`upper` over `lower`."""
    both = {name: _laid_over(lower[name], upper[name]) for name in upper if _are_mappings(lower.get(name), upper[name])}
    return {**lower, **upper, **both}


def _are_mappings(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def _unknown(name: str) -> str:
    names = recipe_names()
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"packaged recipes are {', '.join(names)}"
    return f"recipe {name}: neither a packaged recipe nor a file; {hint}"
