"""Which run a command goes on with: the same command again continues what it began (floor F2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gkd_dist.config.load import load_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.config.schema import show
from gkd_dist.errors import ConfigError
from gkd_dist.runs.lock import check_free, holder_of
from gkd_dist.runs.run_directory import RunDirectory

MAY_CHANGE = (
    "output_dir",
    "learner.max_steps",
    "cluster.*",
    "metrics.*",
    "supervision.*",
    "checkpoint.*",
    *(
        f"{role}.{key}"
        for role in ("sampler", "teacher", "teachers.*")
        for key in ("num_replicas", "min_replicas", "max_replicas")
    ),
)
"""Keys that two attempts of one run need not share: they say where and how long it runs, not what it computes."""


@dataclass(frozen=True)
class Continuation:
    """A run that was begun and can be gone on with."""

    directory: RunDirectory
    step: int
    """Of its newest checkpoint."""
    changes: tuple[str, ...]
    """Keys with another value than before, one text each; all of them may change."""

    def line(self, attempt: int) -> str:
        """What happens, for people."""
        changes = f"; changed: {', '.join(self.changes)}" if self.changes else ""
        return f"continuing {self.directory.path} (attempt {attempt}); newest checkpoint: step {self.step}{changes}"


def find_continuation(config: RunConfig) -> Continuation | None:
    """The newest unfinished run of this name below `output_dir` that has a checkpoint; None: a new one is to start.

    A run that goes on elsewhere at this moment is no reason to refuse a run with another configuration, nor is a run
    with another configuration that was left for a newer one.

    Raises:
        ConfigError: that run had another configuration; every difference is listed.
        RunError: a process works on that run.
    """
    if not config.checkpoint.resume:
        return None
    has_newer = False
    for directory in RunDirectory.all_of(config.output_dir, config.name):
        if not directory.config.is_file():
            continue
        is_held = holder_of(directory.lock) is not None
        if is_held and not directory.is_finished and not _differences(directory, config)[0]:
            check_free(directory.lock)
            is_held = False  # by a process of another host, which is dead
        step = directory.last_checkpoint
        if is_held or directory.is_finished:
            has_newer = True
        elif step is not None:
            problems, changes = _differences(directory, config)
            if not problems:
                return Continuation(directory, step, tuple(changes))
            if not has_newer:
                raise ConfigError(_refusal(directory, step, problems))
    return None


def without_configuration(config: RunConfig, continuation: Continuation | None) -> list[str]:
    """What to say of each unfinished run that has a checkpoint and would come before `continuation`, but has lost its
    config.yaml: whether this command may go on with it is not known."""
    lines = []
    for directory in RunDirectory.all_of(config.output_dir, config.name) if config.checkpoint.resume else ():
        if continuation is not None and directory.path == continuation.directory.path:
            break
        step = directory.last_checkpoint
        if step is not None and not directory.is_finished and not directory.config.is_file():
            instead = "starting anew" if continuation is None else f"going on with {continuation.directory.name}"
            lines.append(
                f"{directory.path} is not finished and has a checkpoint at step {step}, but its config.yaml is "
                f"missing: {instead}. To go on with that run, stop this one and put the file back: "
                "`gkd validate RECIPE KEY=VALUE... --show` prints what it held"
            )
    return lines


def _refusal(directory: RunDirectory, step: int, problems: list[str]) -> list[str]:
    return [
        f"{directory.path} has a checkpoint at step {step}, but cannot go on with this configuration:",
        *problems,
        "give these keys their former values, or start a new run with checkpoint.resume=false",
    ]


def _differences(directory: RunDirectory, config: RunConfig) -> tuple[list[str], list[str]]:
    """(what forbids to go on, what has changed and may), one text each."""
    try:
        former = load_run_config(str(directory.config))
    except ConfigError as error:
        return [f"its config.yaml is not one of this version: {problem}" for problem in error.problems], []
    problems, changes = [], []
    for key, there, here in _pairs("", former.model_dump(mode="json"), config.model_dump(mode="json")):
        if not any(fnmatchcase(key, pattern) for pattern in MAY_CHANGE):
            problems.append(f"{key}: there {_shown(there)}, here {_shown(here)}")
        elif key != "output_dir":
            changes.append(f"{key} {_shown(there)} -> {_shown(here)}")
    step = directory.last_checkpoint
    if step is not None and config.learner.max_steps < step:
        problems.append(f"learner.max_steps: there {step} steps are done, here {config.learner.max_steps}")
    return problems, changes


_ABSENT = object()


def _pairs(key: str, there: Any, here: Any) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in {**there, **here}:
            yield from _pairs(f"{key}.{name}".lstrip("."), there.get(name, _ABSENT), here.get(name, _ABSENT))
    elif there != here:
        yield key, there, here


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else show(value)
