"""YAML as recipes use it: text to plain values, plain values to text (floor F1).

Only null, true/false, numbers, text, lists and mappings exist. Differences from PyYAML's own rules, each of which
has bitten somebody: `1e-4` is a number; dates, base-60 and octal integers are text; a key given twice is an error;
keys are always text. `yes`, `no`, `on` and `off` stay booleans.
"""

import copy
import re
from functools import lru_cache
from typing import Any, ClassVar

import yaml

_TAG = "tag:yaml.org,2002:"
_BOOL = re.compile(r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$")
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_RARE_BREAKS = re.compile("[\x85\u2028\u2029]")


class YamlTextError(Exception):
    """Text that is not the YAML we read; `line` and `column` count from 1."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        self.problem, self.line, self.column = problem, line, column
        super().__init__(f"line {line}, column {column}: {problem}")


def parse_yaml(text: str) -> Any:
    """The value of one YAML document; None when it is empty. What was read lately is copied: an experiment reads the
    same recipes for hundreds of runs.

    Raises:
        YamlTextError: with the first problem and where it is.
    """
    return copy.deepcopy(_read(text))


@lru_cache(maxsize=1024)
def _read(text: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "not YAML"
        raise YamlTextError(problem, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = len(before) - (before.rfind("\n") + 1) + 1
        problem = f"character #x{error.character:04x} is not allowed in YAML"
        raise YamlTextError(problem, before.count("\n") + 1, column) from error
    except RecursionError as error:
        raise YamlTextError("nested too deeply", 1, 1) from error


def format_yaml(value: Any) -> str:
    """Text that `parse_yaml` reads back as an equal value; mappings keep their order."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return str(text)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with tables of its own: fewer types, other patterns (see the module)."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - its stubs declare an instance variable
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def null(self, node: yaml.ScalarNode) -> None:  # noqa: ARG002
        return None

    def text(self, node: yaml.ScalarNode) -> str:
        return str(self.construct_scalar(node))

    def unknown(self, node: yaml.Node) -> None:
        problem = f"values of type {node.tag} do not exist here"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def number(self, node: yaml.ScalarNode) -> int | float:
        text = str(self.construct_scalar(node)).replace("_", "")
        try:
            if node.tag == _TAG + "int":
                return int(text, 0)
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        except ValueError:
            raise yaml.constructor.ConstructorError(None, None, f"{text!r} is not a number", node.start_mark) from None

    def boolean(self, node: yaml.ScalarNode) -> bool:
        if not _BOOL.match(node.value):
            problem = f"{node.value!r} is neither true nor false"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return bool(self.construct_yaml_bool(node))

    def sequence(self, node: yaml.SequenceNode) -> list[Any]:
        return list(self.construct_sequence(node, deep=True))

    def mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        self._refuse_bad_keys(node)
        self.flatten_mapping(node)  # merge keys; what is written here wins
        return {str(key.value): self.construct_object(value, deep=True) for key, value in node.value}

    def _refuse_bad_keys(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                problem = f'key "{key.value}" is given twice (first on line {seen[key.value]}); keep one'
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen[key.value] = key.start_mark.line + 1


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would take for a number, besides all that PyYAML quotes."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        # PyYAML would write these line breaks as they are and read them back folded into spaces.
        return self.represent_scalar(_TAG + "str", data, style='"' if _RARE_BREAKS.search(data) else None)


for _tag, _pattern, _first in (
    ("bool", _BOOL, "yYnNtTfFoO"),
    ("null", _NULL, ["~", "n", "N", ""]),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("merge", re.compile(r"^<<$"), "<"),
):
    _Loader.add_implicit_resolver(_TAG + _tag, _pattern, list(_first))
_Dumper.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))
_Dumper.add_representer(str, _Dumper.text)
_Loader.add_constructor(_TAG + "null", _Loader.null)
_Loader.add_constructor(_TAG + "bool", _Loader.boolean)
_Loader.add_constructor(_TAG + "str", _Loader.text)
_Loader.add_constructor(_TAG + "int", _Loader.number)
_Loader.add_constructor(_TAG + "float", _Loader.number)
_Loader.add_constructor(_TAG + "seq", _Loader.sequence)
_Loader.add_constructor(_TAG + "map", _Loader.mapping)
_Loader.add_constructor(None, _Loader.unknown)
