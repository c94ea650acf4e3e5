"""Packaged experiments with all that they need given, and the configurations of their command lines."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.config.load import load_eval_config
from gkd_dist.experiments.catalogue import experiment_names, load_experiment
from gkd_dist.experiments.plan import PlannedRun, expand
from gkd_dist.experiments.spec import Experiment

REQUIRED = ("data", "train", "test", "mmlu", "bbh")
"""Settings of packaged experiments that have no default: where data are."""
SCALED = [(name, scale) for name in experiment_names() for scale in load_experiment(name)[0].scales or [None]]
"""(name, scale) of all of them."""


def loaded(name: str, scale: str | None, *overrides: str) -> Experiment:
    given = [f"{key}=/somewhere" for key in REQUIRED]
    known = load_experiment(name, scale)[0].settings
    given = [each for each in given if known.get(each.partition("=")[0], "") is None]
    return load_experiment(name, scale, [*given, *overrides])[0]


@cache
def planned(name: str, scale: str | None, *overrides: str) -> tuple[PlannedRun, ...]:
    """Expanded once for all tests."""
    return expand(loaded(name, scale, *overrides), Path("out"))


def eval_config(arguments: Sequence[str]) -> EvalConfig:
    """Of a command line of `gkd eval` or `gkd generate`."""
    words = list(arguments[2:])
    given = {"model": arguments[1]}
    for option, key in (("--task", "task"), ("--data", "data"), ("--prompts", "data"), ("--output", "output")):
        if option in words:
            place = words.index(option)
            given[key] = words[place + 1]
            del words[place : place + 2]
    return load_eval_config(None, given, words)
