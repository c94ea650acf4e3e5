"""Files of experiments: those of this package and others, with what the command line changes in them.

extends: tasks/wmt14        # or a list; mappings are merged key by key, this file wins, null takes away
changes: {axes.size: [2m]}  # as on the command line, but under the scale and the command line
"""

import re
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gkd_dist.config.load import InvalidError
from gkd_dist.config.yaml_text import YamlTextError, parse_yaml
from gkd_dist.errors import ConfigError
from gkd_dist.experiments.mentions import mention_problems
from gkd_dist.experiments.spec import Experiment

_ENDINGS = (".yaml", ".yml")
"""Of paths; names without one are those of packaged experiments."""
_MAPPINGS = ("settings", "axes", "scales", "changes", "evaluations", "stages", "plots")


def experiment_names() -> list[str]:
    """Of the packaged ones, in the order of the paper."""
    return sorted((each.name.removesuffix(".yaml") for each in _files() if each.name.endswith(".yaml")), key=_place)


def experiment_title(name: str) -> str:
    """One line; the rest of the file is not looked at."""
    return str(_tree(name)["title"])


def experiment_scales(name: str) -> list[str]:
    """Those that --scale takes, the default first; none where there is one alone."""
    return [scale for scale, changes in (_tree(name).get("scales") or {}).items() if changes is not None]


def load_experiment(name: str, scale: str | None = None, overrides: Sequence[str] = ()) -> tuple[Experiment, str]:
    """(the experiment, its scale, which is empty where there is one alone).

    Args:
        name: of a packaged one, or path of a YAML file.
        scale: None means the first that the file has.
        overrides: `key=value`, the value in YAML; key is a setting, `seeds`, `axes.NAME` (a list of the labels to
            keep), `STAGE.key.of.its.recipe`, `evaluations.NAME.key` of `gkd eval`, or a stage whose output is there
            already. A later one wins.

    Raises:
        InvalidError: with all problems, one line each, and the experiment without what could not be applied.
        ConfigError: there is nothing that could be looked at.
    """
    tree = _tree(name)
    for part in _MAPPINGS:
        tree[part] = tree.get(part) or {}
    for part in ("scales", "stages", "evaluations", "plots"):
        tree[part] = _without_null(tree[part])
    tree["stages"] = {key: _without_null(stage) for key, stage in tree["stages"].items()}
    scales = tree["scales"]
    chosen = scale or next(iter(scales), "")
    problems: list[str] = []
    for key, value in tree.pop("changes").items():
        _apply(tree, key, value, "changes.", problems)
    if scale is not None and scale not in scales:
        raise ConfigError([f"--scale {scale}: {name} has {', '.join(scales) or 'one scale alone'}"])
    for key, value in (scales.get(chosen) or {}).items():
        _apply(tree, key, value, f"scales.{chosen}.", problems)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            problems.append(f"{override!r}: must look like KEY=VALUE")
            continue
        try:
            _apply(tree, key.strip(), parse_yaml(text), "", problems)
        except YamlTextError as error:
            problems.append(f"{key}: {text!r} is not YAML ({error.problem})")
    experiment = None
    try:
        experiment = Experiment.model_validate(tree)
    except ValidationError as error:
        problems += [_line(details["loc"], details["msg"]) for details in error.errors()]
    else:
        problems += mention_problems(experiment)
    if problems or experiment is None:
        raise InvalidError(problems, experiment)
    return experiment, chosen


def _apply(tree: dict[str, Any], key: str, value: Any, where: str, problems: list[str]) -> None:
    """Set what the command line, or a scale, calls `key`."""
    first, _, rest = key.partition(".")
    name, _, option = rest.partition(".")
    settings, axes, stages, evaluations = (tree[part] for part in ("settings", "axes", "stages", "evaluations"))
    if key == "seeds":
        if isinstance(value, list) and all(type(seed) is int for seed in value):
            tree["seeds"] = value
        else:
            problems.append(f"{where}seeds: must be a list of whole numbers, such as [0, 1], got {value!r}")
    elif key in settings:
        problem = _problem_of_setting(settings[key], value)
        if problem:
            problems.append(f"{where}{key}: {problem}")
        if problem is None or settings[key] is None:
            settings[key] = value
    elif first == "axes" and rest in axes:
        _keep(tree, rest, value, where, problems)
    elif key in stages:
        tree.setdefault("given", {})[key] = str(value)
    elif first in stages:
        stages[first].setdefault("asked", {})[rest] = value
    elif first == "evaluations" and option and name in evaluations:
        # A new mapping: files share some between evaluations.
        evaluations[name] = {**evaluations[name], "options": {**evaluations[name].get("options", {}), option: value}}
    else:
        known = [*settings, "seeds", *(f"axes.{name}" for name in axes), *stages, *(f"{name}.KEY" for name in stages)]
        known += [f"evaluations.{name}.KEY" for name in evaluations]
        problems.append(f"{where}{key}: not known here; known are {', '.join(known)}")


def _keep(tree: dict[str, Any], axis: str, value: Any, where: str, problems: list[str]) -> None:
    """Let `axis` have these labels alone."""
    axes = tree["axes"]
    wanted = [str(each) for each in value] if isinstance(value, list) else [str(value)]
    values = axes[axis]
    if isinstance(values, list):
        values = {str(each): {"value": each} for each in values}
    unknown = [label for label in wanted if label not in values]
    if unknown or not wanted:
        problems.append(f"{where}axes.{axis}: {', '.join(unknown) or 'nothing'}; it has {', '.join(values)}")
    else:
        axes[axis] = {label: values[label] for label in values if label in wanted}
        tree.setdefault("left_out", {}).setdefault(axis, []).extend(label for label in values if label not in wanted)


def _problem_of_setting(former: Any, value: Any) -> str | None:
    if value is None or isinstance(value, dict | list):
        return "needs one value"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(former, bool) != isinstance(value, bool) and former is not None:
        return f"must be {'true or false' if isinstance(former, bool) else 'a number or a text'}, got {value!r}"
    if isinstance(former, int | float) and not is_number:
        return f"must be a number, got {value!r}"
    return None


def _tree(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A file over all that it extends.

    Args:
        above: files that extend it.
    """
    chain = (*above, name)
    if _file_of(name) in map(_file_of, above):
        raise ConfigError([f"{chain[0]}: extends goes in a circle: {' -> '.join(chain)}; name another file"])
    tree = _parsed(name)
    bases = tree.pop("extends", [])
    for base in reversed([bases] if isinstance(bases, str) else bases):
        tree = _over(_tree(str(base), chain), tree)
    if "title" not in tree and "/" not in name:
        raise ConfigError([f"{name}: needs a title"])
    return tree


def _file_of(name: str) -> str:
    """The same for all ways to write the path of one file."""
    return str(Path(name).resolve()) if name.endswith(_ENDINGS) else name


def _over(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _without_null(below: dict[str, Any]) -> dict[str, Any]:
    """What null takes away is gone."""
    return {key: value for key, value in below.items() if value is not None}


def _parsed(name: str) -> dict[str, Any]:
    path = Path(name)
    if name.endswith(_ENDINGS):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"{name}: cannot be read: {error}"]) from error
    else:
        packaged = _folder().joinpath(f"{name}.yaml")
        if not packaged.is_file():
            raise ConfigError([f"{name}: no such experiment; there are {', '.join(experiment_names())}"])
        text = packaged.read_text(encoding="utf-8")
    try:
        tree = parse_yaml(text)
    except YamlTextError as error:
        raise ConfigError([f"{name}, line {error.line}, column {error.column}: {error.problem}"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{name}: must be a mapping of keys to values"])
    _check_mappings(name, tree)
    return tree


def _check_mappings(name: str, tree: dict[str, Any]) -> None:
    """Of what is merged and changed key by key, before the types of the experiment are asked."""
    found: dict[str, Any] = {part: tree.get(part) for part in _MAPPINGS}
    for part in ("scales", "evaluations", "stages"):
        below = found[part] if isinstance(found[part], dict) else {}
        found |= {f"{part}.{key}": value for key, value in below.items()}
    wrong = [key for key, value in found.items() if value is not None and not isinstance(value, dict)]
    if wrong:
        raise ConfigError([f"{name}: {key}: must be a mapping of keys to values" for key in wrong])


def _folder() -> Traversable:
    return resources.files("gkd_dist") / "experiments" / "figures"


def _files() -> list[Traversable]:
    return list(_folder().iterdir())


def _place(name: str) -> tuple[int, bool, int, str]:
    """Figures of the paper by their numbers, then those of its appendix, then the others."""
    found = re.fullmatch(r"figure(A?)([0-9]+)(-.*)?", name)
    return (1, False, 0, name) if found is None else (0, bool(found[1]), int(found[2]), name)


def _line(location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(str(part) for part in location)
    text = message.removeprefix("Value error, ")
    return f"{key}: {text}" if key else text
