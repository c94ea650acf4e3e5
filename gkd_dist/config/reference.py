"""The reference page of all keys, docs/configuration.md, made from the models themselves (floor F1).

A key's type, limits and default are what validation uses; what it means is the docstring below it, and its unit is the
ending of its name.
"""

import ast
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gkd_dist.config.base import Strict
from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.config.infra import InfraConfig
from gkd_dist.config.run import RunConfig
from gkd_dist.config.schema import entry_of, expected, names_of, section_of

HEAD = """# Configuration

Generated from `gkd_dist/config` by `make reference`. All of a recipe: `gkd validate RECIPE --config-only --show`.

Every key of a recipe can be set on the command line as `a.b=value`, the value in YAML. An unknown key, a value outside
of what stands here, or a key that the others leave without effect is an error (exit code 2), and all errors are told
at once. A key without a default must be given, where its section is.

"""
PARTS: tuple[tuple[str, type[Strict], str], ...] = (
    ("Recipe", RunConfig, "What `gkd run` and all others that take a RECIPE read."),
    ("Evaluation of a task", EvalConfig, "What `gkd eval --task` and `gkd generate` read, after the model."),
    ("Infrastructure", InfraConfig, "What `gkd submit --infra FILE` reads: where a job runs, and on how much."),
)
UNITS = {"s": "seconds", "bytes": "bytes", "tokens": "tokens", "len": "tokens", "steps": "train steps"}
"""By the last word of a key, where it has more than one."""


def reference() -> str:
    """docs/configuration.md as it should be."""
    return HEAD + "\n".join(line for part in PARTS for line in _part(*part)).rstrip() + "\n"


def keys(root: type[Strict]) -> Iterator[tuple[str, FieldInfo, str]]:
    """(dotted key, field, what it means) of every key that is not a section; `NAME` stands for a name of the user's."""
    for section, model, _ in _sections(root):
        texts = field_texts(model)
        yield from ((f"{section}{name}", field, texts.get(name, "")) for name, field in _own(model))


def field_texts(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field of `model` that has one, in one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def unit(name: str) -> str:
    """What the last word of a field's name says; empty where it says no unit."""
    rest, _, last = name.rpartition("_")
    return UNITS.get(last, "") if rest else ""


def _part(title: str, root: type[Strict], text: str) -> Iterator[str]:
    yield from (f"## {title}", "", text, "")
    shown: dict[type[Strict], str] = {}
    for section, model, about in _sections(root):
        if section:
            yield from (f"### `{section.rstrip('.')}`", "")
        if about:
            yield from (_yaml_words(about), "")
        if (former := shown.setdefault(model, section)) != section:
            yield from (f"The same keys as under `{former.rstrip('.')}`.", "")
            continue
        yield from ("| key | type | default | unit | means |", "| --- | --- | --- | --- | --- |")
        texts = field_texts(model)
        for name, field in _own(model):
            other = names_of(name, field)[1:]
            also = f" (also {', '.join(f'`{each}`' for each in other)})" if other else ""
            cells = [f"`{section}{name}`{also}", expected(field), _default(field), unit(name), texts.get(name, "")]
            yield f"| {' | '.join(_cell(cell) for cell in cells)} |"
        yield ""


def _own(model: type[Strict]) -> list[tuple[str, FieldInfo]]:
    """Fields that are no sections."""
    return [
        (name, field)
        for name, field in model.model_fields.items()
        if section_of(field) is None and entry_of(field) is None
    ]


def _sections(model: type[Strict], prefix: str = "", about: str = "") -> Iterator[tuple[str, type[Strict], str]]:
    """(prefix of its keys, model, what it is) of a model and of all below it that have keys of their own."""
    if _own(model):
        yield prefix, model, about
    texts = field_texts(model)
    for name, field in model.model_fields.items():
        section, entry = section_of(field), entry_of(field)
        if (kind := section or entry) is None:
            continue
        below = f"{prefix}{name}." if section else f"{prefix}{name}.NAME."
        optional = "" if _default(field) != "`null`" else "Optional (null by default)."
        words = (optional, inspect.cleandoc(kind.__doc__ or "") if "__doc__" in vars(kind) else "", texts.get(name, ""))
        yield from _sections(kind, below, " ".join(word for word in words if word))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "-"
    value: Any = field.get_default(call_default_factory=True)
    return f"`{json.dumps(value, default=str)}`"


def _cell(text: str) -> str:
    return _yaml_words(text).replace("|", "\\|")


def _yaml_words(text: str) -> str:
    """As YAML says it: null."""
    return re.sub(r"\bNone\b", "null", text)
