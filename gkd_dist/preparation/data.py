"""The first stage of preparation: everything that needs no model (floor F5)."""

from collections.abc import Collection
from functools import partial

from gkd_dist.build.trackers import check_trackers
from gkd_dist.config.run import RunConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.data.prompts import prompt_limit
from gkd_dist.data.readers import read_rows
from gkd_dist.data.routes import route_problems
from gkd_dist.data.rows import Rows
from gkd_dist.data.sources import is_missing, no_such_file
from gkd_dist.errors import ConfigError, DataError
from gkd_dist.preparation.engines import check_engines
from gkd_dist.preparation.models import needs_weights, references
from gkd_dist.preparation.prepared import Data
from gkd_dist.preparation.problems import collect
from gkd_dist.preparation.reward import check_reward
from gkd_dist.runs.run_directory import check_output_dir


def check_data(config: RunConfig, student: str | None, writes: bool) -> Data:
    """The first stage: everything that needs no model, and whether models given as folders or packages are there."""
    problems: list[str] = []
    rows = _find(config, student, writes, problems)
    mixture = collect(problems, lambda: _mixture(config, rows))
    collect(problems, lambda: _check_left_to_train(config, rows))
    if rows is not None and config.objective.combine_teachers == "route":
        problems += route_problems(config.named_teachers, rows)
    limit = collect(problems, lambda: _prompt_limit(config))
    collect(problems, lambda: check_reward(config.reward, rows))
    collect(problems, lambda: check_engines(config))
    if writes:
        collect(problems, lambda: check_trackers(config))
    if problems or rows is None or mixture is None or limit is None:
        raise ConfigError(problems)
    return Data(rows, mixture, limit)


def not_there(config: RunConfig, unsure: Collection[str] = frozenset()) -> list[str]:
    """What a configuration names and is not there, or cannot be read: one line for each file and folder.

    Args:
        config: may break the rules between its sections.
        unsure: its keys that have no value of the user's; nothing is told of them, and where one decides how data
            are read, only whether the file is there is looked at.
    """
    problems: list[str] = []
    _find(config, None, True, problems, unsure)
    return [problem for problem in problems if not problem.startswith(tuple(f"{key}: " for key in unsure))]


def _find(
    config: RunConfig, student: str | None, writes: bool, problems: list[str], unsure: Collection[str] = frozenset()
) -> Rows | None:
    """The rows, where they can be read; whether what the configuration names is there."""
    from gkd_dist.models.packaged import already_here, default_cache_dir

    rows = None
    if not any(key.startswith("data.") for key in unsure):
        rows = collect(problems, lambda: read_rows(config.data))
    elif config.data.path is not None and is_missing(config.data.path):
        problems.append(no_such_file(config.data.path, "data.path"))
    if writes:
        collect(problems, lambda: check_output_dir(config.output_dir))
    if student is None and config.student.scratch is not None and config.student.model_type is not None:
        from gkd_dist.models.scratch import check_scratch

        collect(problems, partial(check_scratch, config.student.model_type, config.student.scratch))
    for part, reference in references(config, student).items():
        look = partial(already_here, reference, default_cache_dir(), weights=needs_weights(config, part))
        collect(problems, look, f"{part}.model: ")
    return rows


def _check_left_to_train(config: RunConfig, rows: Rows | None) -> None:
    """As far as no tokenizer is needed for it."""
    num_held_out = config.data.num_held_out
    if rows is not None and len(rows) <= num_held_out:
        raise DataError(
            f"data.num_held_out: {num_held_out} rows are to be held out, and {rows.source} has {len(rows)} that can be "
            "used: nothing is left to train on; lower it, or give more rows"
        )


def _prompt_limit(config: RunConfig) -> int:
    """Longest prompt that leaves room for training's and evaluation's completions."""
    return prompt_limit(
        config.data,
        max_model_len=config.sampler.max_model_len,
        max_new_tokens=max(config.sampling.max_new_tokens, config.evaluation.max_new_tokens or 0),
    )


def _mixture(config: RunConfig, rows: Rows | None) -> Mixture:
    objective = config.objective
    mixture = Mixture(
        objective.student_fraction,
        objective.mix,
        objective.schedule,
        batch_size=config.learner.batch_size,
        seed=config.seed,
        max_steps=config.learner.max_steps,
        num_generations=config.sampling.num_generations,
    )
    if rows is not None and mixture.needs_fixed and not rows.has_completions:
        raise DataError(
            f"objective.student_fraction: {objective.student_fraction:g} needs fixed completions, but {rows.source} "
            "has prompts alone; set objective.student_fraction=1 or name the completion column in data.fields"
        )
    return mixture
