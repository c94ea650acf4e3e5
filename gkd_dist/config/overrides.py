"""Keys on their way into the configuration tree: aliases, unknown ones, `a.b=c` overrides (floor F1).

The tree is what YAML gave: dicts by field name, lists and scalars. Problems are appended as lines, never raised,
so that one pass finds them all.
"""

from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo

from gkd_dist.config.base import Strict
from gkd_dist.config.schema import (
    entry_of,
    expected,
    field_at,
    field_name,
    is_table,
    section_of,
    show,
    unknown_key,
)
from gkd_dist.config.yaml_text import YamlTextError, parse_yaml

Tree = dict[str, Any]
Path = tuple[str, ...]


def canonical_keys(tree: Tree, root: type[Strict], problems: list[str]) -> Tree:
    """`tree` with aliases replaced by field names, and without unknown keys and empty sections.

    Args:
        root: the model of the whole tree.
    """
    return _canonical_keys(tree, root, root, (), problems)


def _canonical_keys(tree: Tree, root: type[Strict], model: type[Strict], path: Path, problems: list[str]) -> Tree:
    result: Tree = {}
    for key, value in tree.items():
        name = field_name(model, key)
        if name is None:
            problems.append(f"{_dotted(*path, key)}: {unknown_key(root, model, key)}")
            continue
        if name in result:
            problems.append(f"{_dotted(*path, key)}: the same key as {name}, which is given too; keep one")
            continue
        result[name] = _canonical_value(value, root, model.model_fields[name], (*path, name), problems)
    return {name: value for name, value in result.items() if not _is_empty_section(model, name, value)}


def apply_overrides(tree: Tree, root: type[Strict], overrides: Sequence[str], problems: list[str]) -> None:
    """Set each `key.path=value` in `tree`, whose keys are canonical; a later one wins over the same key before it."""
    spelled: dict[Path, str] = {}
    for override in overrides:
        _apply(tree, root, override, spelled, problems)


def _apply(tree: Tree, root: type[Strict], override: str, spelled: dict[Path, str], problems: list[str]) -> None:
    """Set one override. A field under two names is a mistake, not a correction: `spelled` has the name it had first."""
    key, equals, text = override.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        problems.append(f"override {show(override)}: must look like KEY=VALUE, such as learner.max_steps=100")
        return
    if not text.strip():
        problems.append(f"{key}: the override has no value; write {key}=null for none, or {key}='\"\"' for empty text")
        return
    try:
        value = parse_yaml(text)
    except YamlTextError as error:
        problems.append(
            f"{key}: the override's value {show(text)} is not YAML (column {error.column}: {error.problem}); "
            f"quote it twice, as in {key}='\"...\"'"
        )
        return
    path, problem = _resolve(root, keys)
    if problem is not None:
        problems.append(problem)
        return
    first = spelled.setdefault(path, key.strip())
    if first != key.strip():
        problems.append(f"{key.strip()}: the same key as {first}, which is given too; keep one")
        return
    field = field_at(root, path)
    if field is not None:
        value = _canonical_value(value, root, field, path, problems)
    _place(tree, path, value, problems)


def _canonical_value(value: Any, root: type[Strict], field: FieldInfo, path: Path, problems: list[str]) -> Any:
    """`value` of the field at `path`, with canonical keys where it is a section or a mapping of sections."""
    section, entry = section_of(field), entry_of(field)
    if not isinstance(value, dict):
        return value
    if section is not None:
        return _canonical_keys(value, root, section, path, problems)
    if entry is not None:  # an entry with nothing below it is told which of its keys are required
        return {
            name: _canonical_keys(below or {}, root, entry, (*path, name), problems)
            if below is None or isinstance(below, dict)
            else below
            for name, below in value.items()
        }
    return value


def _resolve(root: type[Strict], keys: Path) -> tuple[Path, str | None]:
    """(the field names that `keys` mean, what is wrong with them or None)."""
    model: type[Strict] | None = root
    entry: type[Strict] | None = None
    path: Path = ()
    for position, key in enumerate(keys):
        if entry is not None:  # any name will do here
            path, model, entry = (*path, key), entry, None
            continue
        if model is None:  # inside a table every key is allowed
            return (*path, *keys[position:]), None
        name = field_name(model, key)
        if name is None:
            return path, f"{_dotted(*path, key)}: {unknown_key(root, model, key)}"
        path = (*path, name)
        field = model.model_fields[name]
        model, entry = section_of(field), entry_of(field)
        if model is None and entry is None and position < len(keys) - 1 and not is_table(field):
            return path, f"{_dotted(*keys)}: {_dotted(*path)} holds {expected(field)}; it has no keys below it"
    return path, None


def _place(tree: Tree, path: Path, value: Any, problems: list[str]) -> None:
    for position, name in enumerate(path[:-1]):
        below = tree.get(name)
        if below is None:
            below = tree[name] = {}
        if not isinstance(below, dict):
            where = _dotted(*path[: position + 1])
            problems.append(f"{_dotted(*path)}: {where} is {show(below)}, not a mapping; it has no keys below it")
            return
        tree = below
    tree[path[-1]] = value


def _is_empty_section(model: type[Strict], name: str, value: Any) -> bool:
    """`learner:` with nothing below it means the defaults, not null."""
    field = model.model_fields[name]
    return value is None and section_of(field) is not None and field.default is not None


def _dotted(*keys: str) -> str:
    return ".".join(keys)
