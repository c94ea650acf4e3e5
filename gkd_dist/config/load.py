"""Recipe or file plus overrides -> RunConfig or EvalConfig; RunConfig -> text (floor F1).

Precedence: defaults < what a file extends < the file < overrides. Every problem is found before any is reported.

    config = load_run_config("quickstart", ["learner.max_steps=100", "data.path=train.jsonl"])
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from gkd_dist.config.base import Strict
from gkd_dist.config.combination import MIXTURES
from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.config.models import TeacherConfig
from gkd_dist.config.overrides import Tree, apply_overrides
from gkd_dist.config.recipes import read_recipe
from gkd_dist.config.run import RunConfig
from gkd_dist.config.validation import validate
from gkd_dist.config.yaml_text import format_yaml
from gkd_dist.errors import ConfigError

Root = TypeVar("Root", bound=Strict)

_TEACHERS = ("teacher", "teachers")


class InvalidError(ConfigError):
    """A configuration that breaks rules, or an override that cannot be applied.

    Args:
        config: what there is of it, so that the files it names can be looked for too; None: nothing.
        unsure: its keys that have no value of the user's, because that was wrong or missing.
    """

    def __init__(
        self, problems: Sequence[str], config: Strict | None = None, unsure: Collection[str] = frozenset()
    ) -> None:
        super().__init__(problems)
        self.config = config
        self.unsure = unsure


def load_run_config(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked configuration of one run.

    Args:
        recipe: name of a packaged recipe (`gkd recipes` lists them), path of a YAML file, or several joined by `+`.
        overrides: `key.path=value` each, the value in YAML; a later one wins. A mapping replaces the whole section.

    Raises:
        InvalidError: with all problems, one line each.
        ConfigError: there is nothing that could be checked.
    """
    problems: list[str] = []
    return _load(RunConfig, read_recipe(recipe, RunConfig, problems), overrides, problems)


def load_eval_config(file: Path | None, given: Mapping[str, str], overrides: Sequence[str] = ()) -> EvalConfig:
    """The checked configuration of one evaluation.

    Args:
        file: YAML with keys of `EvalConfig`; None: there is none.
        given: texts by key, over the file and under the overrides.

    Raises:
        InvalidError, ConfigError: as `load_run_config`.
    """
    problems: list[str] = []
    tree = {} if file is None else read_recipe(str(file), EvalConfig, problems)
    quoted = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    return _load(EvalConfig, tree, [*quoted, *overrides], problems)


def _load(root: type[Root], tree: Tree, overrides: Sequence[str], problems: list[str]) -> Root:
    """`tree` under `overrides`, checked; `problems` are those that are known already."""
    apply_overrides(tree, root, overrides, problems)
    config, invalid, unsure = validate(tree, root)
    problems += invalid
    if problems or config is None:
        raise InvalidError([_one_line(problem) for problem in dict.fromkeys(problems)], config, unsure)
    return config


def dump_run_config(config: RunConfig) -> str:
    """YAML of the resolved configuration, every value that has an effect; it loads back to an equal one."""
    combine = config.objective.combine_teachers
    exclude: dict[str, set[str]] = {"objective": {"combine_teachers"} if combine is None else set()}
    for section, *keys in config.idle_paths():
        if section not in _TEACHERS:
            exclude.setdefault(section, set()).update(keys)
    idle_of_teacher = set()
    if combine != "route":
        idle_of_teacher.add("sources")
    if combine not in MIXTURES:
        idle_of_teacher.add("weight")
    tree = config.model_dump(mode="json", exclude=exclude)
    unused = [key for key in _TEACHERS if tree[key] is None]
    for key in unused:
        del tree[key]
    for name, teacher in config.named_teachers.items():
        shown = tree["teachers"][name] if "teachers" in tree else tree["teacher"]
        for key in idle_of_teacher | teacher.idle_keys:
            if getattr(teacher, key) == TeacherConfig.model_fields[key].get_default(call_default_factory=True):
                del shown[key]  # a server's dtype stays, where it was given: it is allowed, and loads back
    return format_yaml(tree)


def _one_line(problem: str) -> str:
    """Keys may hold line breaks and control characters; messages may not."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in problem)
