"""Texts of an experiment: names in braces inside of them, and values on a command line."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from gkd_dist.config.yaml_text import YamlTextError, parse_yaml
from gkd_dist.errors import ConfigError

_NAME = re.compile(r"\{((?:(?:stage|recipe):)?[A-Za-z0-9][A-Za-z0-9_.+-]*)\}")
_LEFT_ALONE = frozenset({"prompt"})
"""`{prompt}` belongs to the templates of tasks."""
_MAX_DEPTH = 8


class NotGivenError(ConfigError):
    """A setting that is null stands in a text."""

    def __init__(self, *names: str) -> None:
        super().__init__([f"{name}: required, but not given; add {name}=VALUE" for name in names])


Lookups = Mapping[str, Callable[[str], Any]]
"""What `{KIND:NAME}` stands for, by kind."""


def fill(value: Any, names: Mapping[str, Any], lookups: Lookups | None = None, depth: int = 0) -> Any:
    """`value` with every `{name}` in it, also inside of lists and mappings, replaced by what it stands for.

    Args:
        names: what they stand for; may hold names itself. None: it has to be given first.
        lookups: of `stage` and `recipe`; one that is missing may not be named here.

    Raises:
        ConfigError: a name that nothing is known of; `NotGivenError` of one that is None.
    """
    if isinstance(value, dict):
        return {key: fill(each, names, lookups, depth) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [fill(each, names, lookups, depth) for each in value]
    if not isinstance(value, str):
        return value

    def lookup(name: str) -> Any:
        kind, colon, rest = name.partition(":")
        if colon:
            if kind not in (lookups or {}):
                raise ConfigError([f"{{{name}}}: no {kind} can be named here"])
            return (lookups or {})[kind](rest)
        if name in _LEFT_ALONE:
            return f"{{{name}}}"
        if name not in names:
            raise ConfigError([f"{{{name}}} is not known here; known are {', '.join(sorted(names))}"])
        if names[name] is None:
            raise NotGivenError(name)
        if depth == _MAX_DEPTH:
            raise ConfigError([f"{{{name}}} stands for itself"])
        return fill(names[name], names, lookups, depth + 1)

    whole = _NAME.fullmatch(value)
    if whole:
        return lookup(whole[1])
    return _NAME.sub(lambda match: _text(lookup(match[1])), value)


def in_settings(problem: str, texts: Mapping[str, Any]) -> str:
    """`problem`, and which settings are behind the keys that it names.

    Args:
        texts: by key of a recipe, as `fill` gets them.
    """
    behind = []
    for key, text in texts.items():
        setting, name = _NAME.fullmatch(text) if isinstance(text, str) else None, key.rpartition(".")[2]
        if setting and ":" not in setting[1] and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", problem):
            behind.append(f"{name} is {setting[1]}=")
    return f"{problem} (here {', '.join(behind)})" if behind else problem


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def number(value: Any, what: str) -> float:
    """
    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError([f"{what}: must be a number, got {value!r}"])
    return float(value)


def override_text(value: Any) -> str:
    """YAML of one line that reads back as `value`, plain where that is possible."""
    if isinstance(value, str):
        try:
            plain = parse_yaml(value) == value
        except YamlTextError:
            plain = False
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)
