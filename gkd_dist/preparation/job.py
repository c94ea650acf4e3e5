"""A job out of a configuration, in stages: data and local folders; models; their fit (floor F5)."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError
from gkd_dist.pipeline.job import Narrate
from gkd_dist.preparation.data import check_data
from gkd_dist.preparation.fit import fit
from gkd_dist.preparation.models import needs_weights, references, scratch_student
from gkd_dist.preparation.prepared import Data, PreparedJob
from gkd_dist.preparation.problems import collect
from gkd_dist.preparation.servers import ask_servers


def prepare(config: RunConfig, narrate: Narrate, *, student: str | None = None, writes: bool = True) -> PreparedJob:
    """Find models and data, and check that they fit together; converts and prunes only what passed before.

    Args:
        student: use this saved student instead of `config.student`.
        writes: whether something will be written below `config.output_dir`.

    Raises:
        ConfigError: every problem of a stage at once. Stages: data and local folders; models; their fit.
    """
    from gkd_dist.models.packaged import default_cache_dir, materialise

    data = check_data(config, student, writes)
    problems: list[str] = []
    folders: dict[str, Path] = {}
    for part, reference in references(config, student).items():
        narrate(f"{part} {reference}")
        find = partial(materialise, reference, default_cache_dir(), weights=needs_weights(config, part))
        folder = collect(problems, find, f"{part}.model: ")
        if folder is not None:
            folders[part] = folder
    new = scratch_student(config, data.rows) if student is None else None
    if new is not None:
        narrate(f"student {config.student.model}")
        folder = collect(problems, new.make)
        if folder is not None:
            folders["student"] = folder
    if problems:
        raise ConfigError(problems)
    prune = config.student.prune if student is None else None
    job = fit(config, data, folders, prune)
    if prune is None:
        return job
    from gkd_dist.models.pruning import pruned_student

    narrate(f"student {config.student.model}, pruned to {prune.num_layers} layers")
    pruned = pruned_student(job.blueprint.student, prune.num_layers, prune.drop_layers, default_cache_dir())
    return replace(job, blueprint=replace(job.blueprint, student=pruned))


def preflight(config: RunConfig) -> tuple[Data, PreparedJob | None, list[str]]:
    """What `prepare` checks, without loading, converting or pruning a model; and whether servers of teachers answer.

    Returns:
        The data; the job, with the student not yet pruned, or None where a model is not converted yet; and which
        checks that leaves to the run, one line each.

    Raises:
        ConfigError: as `prepare`.
    """
    from gkd_dist.models.packaged import already_here, default_cache_dir, is_converted, materialise

    data = check_data(config, None, writes=True)
    problems: list[str] = []
    folders: dict[str, Path] = {}
    left = []
    for part, reference in references(config, None).items():
        find = already_here if is_converted(reference) else materialise
        look = partial(find, reference, default_cache_dir(), weights=needs_weights(config, part))
        folder = collect(problems, look, f"{part}.model: ")
        if folder is not None:
            folders[part] = folder
        else:
            left.append(f"{part}: {reference} is not converted yet; tokenizer checks are made when the run starts")
    new = scratch_student(config, data.rows)
    if new is not None and new.is_made:
        folders["student"] = new.folder
    elif new is not None:
        left.append(f"student: {config.student.model} is not made yet; tokenizer checks are made when the run starts")
    fits = not (problems or left)
    job = collect(problems, lambda: fit(config, data, folders, config.student.prune)) if fits else None
    collect(problems, lambda: ask_servers(config))
    if problems:
        raise ConfigError(problems)
    return data, job, left
