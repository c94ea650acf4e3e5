"""A configuration tree against the models: every problem, in words (floor F1).

Pydantic stops at the rules between components as soon as one value is wrong. To report both kinds at once, wrong
values are taken out and the rest is validated again.

Null says that there is no value, and is right where the type knows it, or where the other values leave the key without
effect: `beta: null` takes away the beta of an extended recipe when the divergence is no longer `jsd`. Of a section it
takes away all that it holds. Elsewhere it is as wrong as any other value; it never means the default.
"""

import copy
import json
import re
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gkd_dist.config.base import WITHOUT_RULES, Strict
from gkd_dist.config.schema import allows_null, entry_of, expected, expected_range, field_at, section_of, show

_RANGE_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
_STAND_INS: dict[Any, Any] = {str: "?", int: 1}
"""Values for required keys that were not given, by type."""
_MAX_ROUNDS = 8
"""Each round takes at least one level out of a tree four levels deep."""

Tree = dict[str, Any]
Path = tuple[str, ...]
Root = TypeVar("Root", bound=Strict)


def validate(tree: Tree, root: type[Root]) -> tuple[Root | None, list[str], set[str]]:
    """(the configuration, [], {}), or all problems, one line each, with what is left of the configuration.

    The last are the keys (`a.b`) whose values there are none of the user's, because those were wrong or missing.

    Args:
        tree: keys are field names; unknown ones have been taken out already.
    """
    tree = copy.deepcopy(tree)
    nulls = _take_nulls(tree, root)
    problems: list[str] = []
    removed: set[Path] = set()
    for _ in range(_MAX_ROUNDS):
        _open_sections(tree, root, removed)
        faults: dict[Path, ErrorDetails] = {}
        try:
            config = root.model_validate_json(json.dumps(tree), strict=True)
        except ValidationError as error:
            for details in error.errors():
                faults.setdefault(_field_path(root, details["loc"]), details)
        if not faults or () in faults:  # every section is right by itself
            whole = _without_rules(tree, root) if faults else config
            missing = nulls.keys() - whole.idle_paths()
            problems += [_wrong_value(path, nulls[path], None) for path in sorted(missing)]
            removed |= missing
        if not faults:
            return config, problems, _dotted(removed)
        for path, details in faults.items():
            lines = _lines(root, path, details, _value_at(tree, path))
            problems += [line for line in lines if not _follows_from(line, removed)]
        if () in faults:
            return whole, problems, _dotted(removed)
        removed |= faults.keys()
        for path, details in faults.items():
            _mend(root, tree, path, details)
    return None, problems, _dotted(removed)


def _dotted(paths: set[Path]) -> set[str]:
    return {".".join(path) for path in paths}


def _take_nulls(tree: Tree, model: type[Strict], above: Path = ()) -> dict[Path, FieldInfo]:
    """Take every null out of `tree` whose key is not required and knows none; returns the fields by path, but for those
    of whole sections, which are empty then."""
    nulls: dict[Path, FieldInfo] = {}
    for name, value in list(tree.items()):
        field, path = model.model_fields[name], (*above, name)
        section, entry = section_of(field), entry_of(field)
        if value is None and not (allows_null(field) or field.is_required()):
            del tree[name]
            if section is None:
                nulls[path] = field
        elif section is not None and isinstance(value, dict):
            nulls |= _take_nulls(value, section, path)
        elif entry is not None and isinstance(value, dict):
            for key, below in value.items():
                if isinstance(below, dict):
                    nulls |= _take_nulls(below, entry, (*path, key))
    return nulls


def _open_sections(tree: Tree, root: type[Strict], removed: set[Path]) -> None:
    """A required section that is not given is empty: what is missing in it is told key by key.

    `teacher` is required where `teachers` is not given, but for the divergence that has none.
    """
    for name, field in root.model_fields.items():
        if field.is_required() and section_of(field) is not None:
            tree.setdefault(name, {})
    if "teachers" not in root.model_fields or ("teachers",) in removed:
        return
    if tree.get("teachers") is None and _needs_teacher(tree, root, removed):
        tree.setdefault("teacher", {})


def _needs_teacher(tree: Tree, root: type[Strict], removed: set[Path]) -> bool:
    """Not where the divergence is wrong: it may have been meant for one that has none."""
    path = ("objective", "divergence")
    divergence, field = _value_at(tree, path), field_at(root, path)
    if path in removed or field is None:
        return False
    return divergence is None or (divergence != "nll" and divergence in get_args(field.annotation))


def _without_rules(tree: Tree, root: type[Root]) -> Root:
    return root.model_validate_json(json.dumps(tree), strict=True, context=WITHOUT_RULES)


def _field_path(root: type[Strict], loc: tuple[int | str, ...]) -> Path:
    """The longest leading part of a pydantic location that names a field."""
    path: Path = ()
    for part in loc:
        if not isinstance(part, str) or field_at(root, (*path, part)) is None:
            break
        path = (*path, part)
    return path


def _lines(root: type[Strict], path: Path, details: ErrorDetails, value: Any) -> list[str]:
    key = ".".join(path)
    field = field_at(root, path)
    if details["type"] == "value_error":
        lines = str(details["ctx"]["error"]).split("\n")
        return [f"{key}: {line}" for line in lines] if key else lines
    if details["type"] == "missing":
        return [f"{key}: required, but not given; set it in the file or with {key}=VALUE"]
    if field is None:
        return [f"the configuration is not valid: {details['msg']}"]
    if details["type"] in _RANGE_ERRORS:
        null = " (or null)" if allows_null(field) else ""
        return [f"{key}: must be {expected_range(field)}{null}, got {show(value)}"]
    return [_wrong_value(path, field, value)]


def _wrong_value(path: Path, field: FieldInfo, value: Any) -> str:
    return f"{'.'.join(path)}: must be {expected(field)}, got {show(value)}"


def _follows_from(line: str, removed: set[Path]) -> bool:
    """Whether a problem of a later round may come from what an earlier one took out: it names that key.

    A problem of a section (`teacher: ...`) names the keys in it without the section.
    """
    for path in removed:
        section = ".".join(path[:-1])
        names = [".".join(path), *([path[-1]] if section and line.startswith(f"{section}: ") else [])]
        if any(re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", line) for name in names):
            return True
    return False


def _value_at(tree: Tree, path: Path) -> Any:
    value: Any = tree
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _mend(root: type[Strict], tree: Tree, path: Path, details: ErrorDetails) -> None:
    """Take the fault at `path` out of `tree`; a missing value gets a stand-in, so that the rest can be checked."""
    *above, name = path
    for part in above:
        tree = tree[part]
    field, parent = field_at(root, path), field_at(root, tuple(above))
    if details["type"] == "missing" and field is not None:
        tree[name] = _stand_in(field.annotation)
    elif parent is not None and entry_of(parent) is not None:
        tree[name] = {}  # the rules count the entries: it stays, and what it lacks follows from what was taken out
    else:
        tree.pop(name, None)


def _stand_in(kind: Any) -> Any:
    """A value for a required key that was not given, by its type."""
    return get_args(kind)[0] if get_origin(kind) is Literal else _STAND_INS.get(kind)
