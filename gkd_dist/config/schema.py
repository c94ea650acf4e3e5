"""What the configuration models allow, in words a reader of YAML understands (floor F1).

Answers three questions about a model without an instance of it: which field a key means, what that field may hold,
and which key was probably meant by one that does not exist.
"""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from gkd_dist.config.base import Strict

_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    NoneType: "null",
    Any: "anything",
}
_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts"}


def names_of(name: str, field: FieldInfo) -> tuple[str, ...]:
    """All keys that mean this field: its own name first, then its aliases."""
    alias = field.validation_alias
    choices = [alias] if isinstance(alias, str) else alias.choices if isinstance(alias, AliasChoices) else []
    return (name, *(choice for choice in choices if isinstance(choice, str) and choice != name))


def field_name(model: type[Strict], key: str) -> str | None:
    """The field that `key` means in `model`; None when there is none."""
    return next((name for name, field in model.model_fields.items() if key in names_of(name, field)), None)


def section_of(field: FieldInfo) -> type[Strict] | None:
    """The model of a field that is a section of its own (`student`, `student.prune`), else None."""
    return next((kind for kind in _alternatives(field.annotation) if _is_section(kind)), None)


def entry_of(field: FieldInfo) -> type[Strict] | None:
    """The model of each entry of a field that maps names of the user's choosing to sections (`teachers`), else None."""
    values = (get_args(kind)[1] for kind in _alternatives(field.annotation) if get_origin(kind) is dict)
    return next((value for value in values if _is_section(value)), None)


def is_table(field: FieldInfo) -> bool:
    """Whether the field holds a mapping of which we know neither keys nor values (`engine_args`)."""
    return entry_of(field) is None and any(get_origin(kind) is dict for kind in _alternatives(field.annotation))


def allows_null(field: FieldInfo) -> bool:
    return NoneType in _alternatives(field.annotation)


def field_at(model: type[Strict], path: tuple[str, ...]) -> FieldInfo | None:
    """The field at a path of field names; None when the path leads out of the models (into a table, say).

    An entry of a mapping of sections (`teachers.math`) counts as a required field.
    """
    field: FieldInfo | None = None
    section: type[Strict] | None = model
    entry: type[Strict] | None = None
    for name in path:
        if entry is not None:
            field = FieldInfo.from_annotation(entry)
        elif section is not None and name in section.model_fields:
            field = section.model_fields[name]
        else:
            return None
        section, entry = section_of(field), entry_of(field)
    return field


def expected(field: FieldInfo) -> str:
    """What a field may hold: `a whole number of at least 1, or null`."""
    if field.description and any(getattr(rule, "pattern", None) for rule in field.metadata):
        return field.description
    limits = expected_range(field)
    literals: list[str] = []
    kinds: list[str] = []
    for kind in _alternatives(field.annotation):
        if get_origin(kind) is Literal:
            literals.extend(show(value, quote=False) for value in get_args(kind))
        elif kind in (int, float) and limits:
            kinds.append(f"{_KINDS[kind]} {'of ' if limits.startswith('at least') else ''}{limits}")
        else:
            kinds.append(_kind(kind))
    if literals:
        kinds.insert(0, literals[0] if len(literals) == 1 else f"one of {', '.join(literals)}")
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])}, or {kinds[-1]}"


def expected_entry(field: FieldInfo) -> str:
    """What an entry of a field may hold that is a mapping or a list; of another field, what it may."""
    kind = next((kind for kind in _alternatives(field.annotation) if get_args(kind)), None)
    return expected(field) if kind is None else _value(get_args(kind))


def expected_range(field: FieldInfo) -> str:
    """The numbers a field allows: `between 0 and 1`; empty when all."""
    limits = {
        word: getattr(rule, word) for rule in field.metadata for word in ("ge", "gt", "le", "lt") if hasattr(rule, word)
    }
    if limits.keys() == {"ge", "le"}:
        return f"between {_number(limits['ge'])} and {_number(limits['le'])}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return " and ".join(f"{phrase} {_number(limits[word])}" for word, phrase in words.items() if word in limits)


def unknown_key(root: type[Strict], model: type[Strict], key: str) -> str:
    """What to say about a `key` that `model` does not have: the nearest valid one, or all of them."""
    wanted = key.lower().replace("-", "_")
    here = [name for field in model.model_fields.items() for name in names_of(*field)]
    near = difflib.get_close_matches(wanted, here, n=1, cutoff=0.6)
    elsewhere = [path for path, names in _leaves(root) if wanted in names]
    if near and (difflib.SequenceMatcher(None, wanted, near[0]).ratio() >= 0.8 or not elsewhere):
        return f"unknown key; did you mean {near[0]}?"
    if elsewhere:
        return f"unknown key here; did you mean {' or '.join(elsewhere)}?"
    return f"unknown key; valid keys: {', '.join(model.model_fields)}"


def show(value: Any, *, quote: bool = True) -> str:
    """A value as a user would write it, at most 80 characters."""
    text = value if isinstance(value, str) and not quote else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _leaves(model: type[Strict], prefix: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, field in model.model_fields.items():
        section = section_of(field)
        yield prefix + name, names_of(name, field)
        if section is not None:
            yield from _leaves(section, f"{prefix}{name}.")


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Strict)


def _kind(kind: Any) -> str:
    if get_origin(kind) in (tuple, list):
        value = get_args(kind)[0]
        if get_origin(value) is Literal:
            return f"a list of {', '.join(show(each, quote=False) for each in get_args(value))}"
        return f"a list of {_PLURALS.get(value, 'values')}"
    if get_origin(kind) is dict or _is_section(kind):
        return f"a mapping (key: {_value(get_args(kind))})"
    return _KINDS.get(kind, str(kind))


def _value(kinds: tuple[Any, ...]) -> str:
    """Of a mapping with these kinds of keys and values, or of a list with this kind of values."""
    kind = next((each for each in reversed(kinds) if each is not Ellipsis), Any)
    if get_origin(kind) is Annotated:
        number, field = get_args(kind)
        return f"{_KINDS[number]} {expected_range(field)}"
    return "value" if kind is Any else _KINDS.get(kind, "value")


def _number(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else repr(limit)
