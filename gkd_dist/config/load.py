"""Recipe or file plus overrides -> RunConfig or EvalConfig; RunConfig -> text (floor F1).

Precedence: defaults < file < overrides. Every problem is found before any is reported.

    config = load_run_config("quickstart", ["learner.max_steps=100", "data.path=train.jsonl"])
"""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeVar

from gkd_dist.config.base import Strict
from gkd_dist.config.combination import MIXTURES
from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.config.models import TeacherConfig
from gkd_dist.config.overrides import apply_overrides, canonical_keys
from gkd_dist.config.run import RunConfig
from gkd_dist.config.schema import show
from gkd_dist.config.validation import validate
from gkd_dist.config.yaml_text import YamlTextError, format_yaml, parse_yaml
from gkd_dist.errors import ConfigError

Root = TypeVar("Root", bound=Strict)


class InvalidError(ConfigError):
    """A configuration that breaks rules, or an override that cannot be applied.

    Args:
        config: what there is of it, so that the files it names can be looked for too; None where sections are wrong.
    """

    def __init__(self, problems: Sequence[str], config: Strict | None = None) -> None:
        super().__init__(problems)
        self.config = config


def load_run_config(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked configuration of one run.

    Args:
        recipe: name of a packaged recipe (`gkd recipes` lists them), or path of a YAML file.
        overrides: `key.path=value` each, the value in YAML; a later one wins. A mapping replaces the whole section.

    Raises:
        InvalidError: with all problems, one line each.
        ConfigError: there is nothing that could be checked.
    """
    source, text = _read(recipe)
    return load_config(RunConfig, source, text, overrides)


def load_config(root: type[Root], source: str, text: str, overrides: Sequence[str]) -> Root:
    """The checked configuration of YAML text under `overrides`.

    Args:
        source: what to call the text in messages.

    Raises:
        InvalidError, ConfigError: as `load_run_config`.
    """
    try:
        tree = parse_yaml(text)
    except YamlTextError as error:
        raise ConfigError([f"{source}, line {error.line}, column {error.column}: {error.problem}"]) from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError([f"{source}: must be a mapping of keys to values, got {show(tree)}"])
    problems: list[str] = []
    tree = canonical_keys(tree, root, problems)
    apply_overrides(tree, root, overrides, problems)
    config, invalid = validate(tree, root)
    problems += invalid
    if problems or config is None:
        raise InvalidError([_one_line(problem) for problem in dict.fromkeys(problems)], config)
    return config


def load_eval_config(file: Path | None, given: Mapping[str, str], overrides: Sequence[str] = ()) -> EvalConfig:
    """The checked configuration of one evaluation.

    Args:
        file: YAML with keys of `EvalConfig`; None: there is none.
        given: texts by key, over the file and under the overrides.

    Raises:
        InvalidError, ConfigError: as `load_run_config`.
    """
    source, text = ("", "") if file is None else (str(file), _file_text(str(file), "give a YAML file"))
    quoted = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    return load_config(EvalConfig, source, text, [*quoted, *overrides])


def dump_run_config(config: RunConfig) -> str:
    """YAML of the resolved configuration, every value that has an effect; it loads back to an equal one."""
    objective = config.objective
    idle = objective.idle_keys | config.idle_keys["objective"].keys()
    idle_of_teacher = set()
    if objective.combine_teachers is None:
        idle.add("combine_teachers")
    if objective.combine_teachers != "route":
        idle_of_teacher.add("sources")
    if objective.combine_teachers not in MIXTURES:
        idle_of_teacher.add("weight")
    exclude = {
        "objective": idle,
        "cluster": set(config.idle_keys["cluster"]),
        "weights": set(config.idle_keys["weights"]),
        **({"reward": config.reward.idle_keys} if config.reward else {}),
    }
    tree = config.model_dump(mode="json", exclude=exclude)
    unused = [key for key in ("teacher", "teachers") if tree[key] is None]
    for key in unused:
        del tree[key]
    for name, teacher in config.named_teachers.items():
        shown = tree["teachers"][name] if "teachers" in tree else tree["teacher"]
        for key in idle_of_teacher | teacher.idle_keys:
            if getattr(teacher, key) == TeacherConfig.model_fields[key].get_default(call_default_factory=True):
                del shown[key]  # a server's dtype stays, where it was given: it is allowed, and loads back
    return format_yaml(tree)


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _recipes().iterdir() if entry.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML text of a packaged recipe.

    Raises:
        ConfigError: no recipe has that name.
    """
    if name not in recipe_names():
        raise ConfigError([_unknown_recipe(name)])
    return (_recipes() / f"{name}.yaml").read_text(encoding="utf-8")


def recipe_summary(name: str) -> str:
    """The comment in the first line of a packaged recipe."""
    return recipe_text(name).partition("\n")[0].removeprefix("#").strip()


def _recipes() -> Traversable:
    return resources.files("gkd_dist") / "recipes"


def _read(recipe: str) -> tuple[str, str]:
    """(what to call it in messages, its text)."""
    is_path = recipe.endswith((".yaml", ".yml")) or os.sep in recipe
    if not is_path and (recipe in recipe_names() or not Path(recipe).is_file()):
        return f"recipe {recipe}", recipe_text(recipe)
    return recipe, _file_text(recipe, f"packaged recipes are {', '.join(recipe_names())}")


def _file_text(path: str, otherwise: str) -> str:
    """
    Args:
        otherwise: what to do where there is no such file.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; {otherwise}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error


def _one_line(problem: str) -> str:
    """Keys may hold line breaks and control characters; messages may not."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in problem)


def _unknown_recipe(name: str) -> str:
    names = recipe_names()
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"packaged recipes are {', '.join(names)}"
    return f"recipe {name}: neither a packaged recipe nor a file; {hint}"


__all__ = [
    "InvalidError",
    "dump_run_config",
    "load_eval_config",
    "load_run_config",
    "recipe_names",
    "recipe_summary",
    "recipe_text",
]
