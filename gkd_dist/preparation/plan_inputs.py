"""What `gkd plan` has to know of models and data, without loading a model (floor F5)."""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError, UserError
from gkd_dist.planning.shapes import ModelShape, shape_of_config, shape_of_size
from gkd_dist.planning.workload import Lengths, Workload, workload_of
from gkd_dist.preparation.problems import collect

if TYPE_CHECKING:
    from gkd_dist.data.rows import Row

_ROWS_READ = 256
"""Rows of the data whose lengths are looked at."""


@dataclass(frozen=True)
class Given:
    """What the command line says instead of files."""

    student: str | None = None
    """Size, such as 1.7B."""
    teacher: str | None = None
    """Of every teacher."""
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    fixed_tokens: float | None = None


def plan_inputs(config: RunConfig, given: Given) -> Workload:
    """The workload of a configuration.

    Raises:
        ConfigError: models that are not here and have no size given; all problems at once.
    """
    problems = _beyond_limits(config, given)
    trees: dict[str, Mapping[str, Any]] = {}

    def shape(reference: str, size: str | None, part: str) -> ModelShape | None:
        if size is not None:
            vocabulary = _known_vocabulary(config, reference)
            return collect(problems, lambda: shape_of_size(size, vocabulary), f"--{part}-params: ")
        if reference not in trees:
            tree = collect(problems, partial(_config_of, config, reference), f"{part}.model: ")
            if tree is None:
                problems.append(f"{part}.model: without its config.json, give its size, as in --{part}-params 8B")
                return None
            trees[reference] = tree
        return collect(problems, partial(shape_of_config, trees[reference], reference), f"{part}.model: ")

    student = shape(config.student.model, given.student, "student")
    teachers = {name: shape(each.model, given.teacher, "teacher") for name, each in config.named_teachers.items()}
    if problems or student is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    prune = config.student.prune
    if prune is not None and given.student is None:
        student = student.pruned(prune.num_layers)
    found = {name: each for name, each in teachers.items() if each is not None}
    return workload_of(config, student, found, _lengths(config, given))


def _config_of(config: RunConfig, reference: str) -> Mapping[str, Any]:
    """The content of a model's config.json; of a model that is not made or converted yet, what it will be."""
    student = config.student
    if reference == student.model and student.model_type is not None and student.scratch is not None:
        from transformers import AutoConfig

        from gkd_dist.models.scratch import check_scratch

        check_scratch(student.model_type, student.scratch)
        made = AutoConfig.for_model(
            student.model_type, **{**student.scratch.config, "vocab_size": student.scratch.vocab_size}
        )
        return dict(made.to_dict())
    folder = _folder_of(reference)
    if folder is None:
        from gkd_dist.models.packaged import packaged_config

        return packaged_config(reference)
    tree = json.loads((folder / "config.json").read_bytes())
    return tree if isinstance(tree, dict) else {}


def _folder_of(reference: str) -> Path | None:
    """Of the model, or of the base of an adapter; None of a package that is not converted yet."""
    from gkd_dist.models.adapters import base_of, is_adapter
    from gkd_dist.models.packaged import already_here, default_cache_dir, is_converted, materialise

    folder = Path(reference).expanduser()
    if is_adapter(folder):
        return _folder_of(base_of(folder))
    look = already_here if is_converted(reference) else materialise
    return look(reference, default_cache_dir(), weights=False)


def _known_vocabulary(config: RunConfig, reference: str) -> int | None:
    """Of a student that is made from nothing, or of a folder; the hub is not asked."""
    student = config.student
    if reference == student.model and student.scratch is not None:
        return student.scratch.vocab_size
    try:
        tree = json.loads((Path(reference).expanduser() / "config.json").read_bytes())
        return shape_of_config(tree, reference).vocab_size
    except (OSError, ValueError, AttributeError, UserError):
        return None


def _room(config: RunConfig) -> int:
    """Longest prompt."""
    return config.data.max_prompt_tokens or config.sampler.max_model_len - config.sampling.max_new_tokens


def _beyond_limits(config: RunConfig, given: Given) -> list[str]:
    longest = config.sampling.max_new_tokens
    prompts = "data.max_prompt_tokens" if config.data.max_prompt_tokens else "sampler.max_model_len"
    limits = {
        "--prompt-tokens": (given.prompt_tokens, _room(config), prompts),
        "--completion-tokens": (given.completion_tokens, longest, "sampling.max_new_tokens"),
        "--fixed-tokens": (given.fixed_tokens, longest, "sampling.max_new_tokens"),
    }
    problems = []
    for option, (number, limit, key) in limits.items():
        if number is None:
            continue
        if not math.isfinite(number):
            problems.append(f"{option}: must be a number of tokens, got {number}")
        elif number > limit:
            problems.append(f"{option}: {number:g} is more than the {limit} that the recipe has room for; raise {key}")
    return problems


def _lengths(config: RunConfig, given: Given) -> Lengths:
    """Measured on rows of the data where tokenizer and data are here; else the limits of the configuration."""
    longest, room = config.sampling.max_new_tokens, _room(config)
    measured = None if given.student is not None else _measured(config, room)
    lengths = measured or Lengths(room, longest, longest, longest, "the limits of the recipe: give --prompt-tokens")
    if given.prompt_tokens is not None:
        lengths = replace(lengths, prompt=given.prompt_tokens, source="as given")
    if given.completion_tokens is not None:
        lengths = replace(lengths, completion=given.completion_tokens, longest=longest)
    if given.fixed_tokens is not None:
        lengths = replace(lengths, fixed=given.fixed_tokens)
    return lengths


def _measured(config: RunConfig, room: int) -> Lengths | None:
    path = config.data.path
    if config.student.model_type is not None or (path is not None and not Path(path).expanduser().exists()):
        return None
    from gkd_dist.data.readers import read_rows
    from gkd_dist.data.rendering import Renderer

    try:
        folder = _folder_of(config.student.model)
        if folder is None:
            return None
        renderer = Renderer(
            str(folder), apply_chat_template=config.data.apply_chat_template, system_prompt=config.data.system_prompt
        )
        rows = read_rows(config.data).rows[config.data.num_held_out :]
    except UserError:
        return None
    chosen: list[Row] = list(rows)
    if len(chosen) > _ROWS_READ:
        chosen = random.Random(0).sample(chosen, _ROWS_READ)
    longest = config.sampling.max_new_tokens
    prompts, fixed = [], []
    for row in chosen:
        size = renderer.prompt_ids(row).size
        if size > room and config.data.overlong == "drop":
            continue
        prompts.append(min(size, room))
        completion = renderer.completion_ids(row)
        if completion is not None:
            fixed.append(min(completion.size, longest))
    if not prompts:
        return None
    return Lengths(
        prompt=sum(prompts) / len(prompts),
        completion=longest,
        longest=longest,
        fixed=sum(fixed) / len(fixed) if fixed else longest,
        source=f"measured on {len(prompts)} rows; the student is taken to write to its limit",
    )
