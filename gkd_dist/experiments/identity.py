"""Whether a run that was done before is the run that is asked for now: its configuration, and what it reads."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gkd_dist.config.schema import show
from gkd_dist.experiments.contents import Contents, named_files
from gkd_dist.experiments.plan import PlannedEvaluation, PlannedRun
from gkd_dist.experiments.record import TRAIN
from gkd_dist.runs.resume import MAY_CHANGE

_WHERE_AND_HOW = (*(key for key in MAY_CHANGE if key != "learner.max_steps"), "evaluation.*")
"""Keys that change nothing of what is trained."""
Inputs = dict[str, Any]
"""What counts beside the configuration: digests of files and folders by absolute path, and how a run measures itself
by dotted key."""


def identities(plan: Sequence[PlannedRun], folder: Path) -> dict[str, str]:
    """For each run a digest of all that decides what it computes: its configuration, and the runs it reads from.

    Args:
        folder: of the experiment; where it is does not count.
    """
    found: dict[str, str] = {}
    for run in plan:
        found[run.name] = _digest([settings_of(run, folder), [found[name] for name in run.waits_for]])
    return found


def evaluation_identity(run_identity: str, evaluation: PlannedEvaluation, folder: Path) -> str:
    """The same for one evaluation of a run."""
    return _digest([run_identity, _placeless(list(evaluation.arguments), folder)])


def settings_of(run: PlannedRun, folder: Path) -> dict[str, Any]:
    """The part of a run's configuration that counts, by dotted key, as JSON has it.

    Keys that are null are left out: one that a later version adds with the default null changes no run, as long as
    nobody sets it. One whose default is another value changes every run.
    """
    return {
        key: value
        for key, value in leaves("", _placeless(dict(run.config), folder))
        if value is not None and not any(fnmatchcase(key, each) for each in _WHERE_AND_HOW)
    }


def inputs(plan: Sequence[PlannedRun], folder: Path, contents: Contents) -> dict[str, dict[str, Inputs]]:
    """For each run, and each part of it (`train`, or the name of an evaluation), what it reads beside its options.

    A run also has the files of those that it waits for; what lies below `folder` is made there, and left out.
    """
    found: dict[str, dict[str, Inputs]] = {}
    for run in plan:
        files = contents.digests(named_files(dict(run.config), folder))
        for name in run.waits_for:
            files |= {key: value for key, value in found[name][TRAIN].items() if key.startswith("/")}
        measured = run.config.get("evaluation", {})
        wanted = dict(leaves("evaluation", measured)) if measured.get("enabled") else {}
        if measured:
            wanted["evaluation.enabled"] = bool(measured.get("enabled"))
        found[run.name] = {TRAIN: files | wanted} | {
            each.name: contents.digests(named_files(each.arguments, folder)) for each in run.evaluations
        }
    return found


def changed_inputs(there: Inputs, here: Inputs) -> list[str]:
    """One text for each thing that both know of and that differs: records of former versions know less."""
    return [
        f"{key}: its content has changed"
        if key.startswith("/")
        else f"{key}: there {show(there[key])}, here {show(here[key])}"
        for key in sorted(there.keys() & here.keys())
        if there[key] != here[key]
    ]


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One text for each key that differs."""
    return [
        f"{key}: there {show(there.get(key))}, here {show(here.get(key))}"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]


def leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all below `key` that is no mapping, or an empty one."""
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from leaves(f"{key}.{name}".lstrip("."), below)
    else:
        yield key, value


def _placeless(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _placeless(each, folder) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_placeless(each, folder) for each in value]
    return value.replace(str(folder.absolute()), "EXPERIMENT") if isinstance(value, str) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
