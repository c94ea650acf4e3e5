"""From a configuration to a job: data rendered, models found, everything checked before an engine starts (floor F5)."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gkd_dist.build import Blueprint
from gkd_dist.build.trackers import check_trackers
from gkd_dist.config.models import PruneConfig
from gkd_dist.config.run import RunConfig
from gkd_dist.data.golden import golden_sequences
from gkd_dist.data.mixture import Mixture
from gkd_dist.data.prompts import RenderedPrompts, prompt_limit, render_prompts
from gkd_dist.data.readers import read_rows
from gkd_dist.data.rendering import Renderer, check_same_tokenizer
from gkd_dist.data.routes import empty_sources, route_problems
from gkd_dist.data.rows import Rows
from gkd_dist.errors import ConfigError, DataError, UserError
from gkd_dist.pipeline.job import Narrate
from gkd_dist.prepared import Data, PreparedJob
from gkd_dist.runs.run_directory import check_output_dir
from gkd_dist.types import Answer, Trajectory

if TYPE_CHECKING:
    from gkd_dist.models.scratch import ScratchModel

T = TypeVar("T")


def prepare(config: RunConfig, narrate: Narrate, *, student: str | None = None, writes: bool = True) -> PreparedJob:
    """Find models and data, and check that they fit together; converts and prunes only what passed before.

    Args:
        student: use this saved student instead of `config.student`.
        writes: whether something will be written below `config.output_dir`.

    Raises:
        ConfigError: every problem of a stage at once. Stages: data and local folders; models; their fit.
    """
    from gkd_dist.models.packaged import default_cache_dir, materialise

    data = _check_data(config, student, writes)
    problems: list[str] = []
    folders: dict[str, Path] = {}
    for part, reference in _references(config, student).items():
        narrate(f"{part} {reference}")
        find = partial(materialise, reference, default_cache_dir(), weights=_needs_weights(config, part))
        folder = _collect(problems, find, f"{part}.model: ")
        if folder is not None:
            folders[part] = folder
    new = _scratch(config, data.rows) if student is None else None
    if new is not None:
        narrate(f"student {config.student.model}")
        folder = _collect(problems, new.make)
        if folder is not None:
            folders["student"] = folder
    if problems:
        raise ConfigError(problems)
    prune = config.student.prune if student is None else None
    job = _fit(config, data, folders, prune)
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

    data = _check_data(config, None, writes=True)
    problems: list[str] = []
    folders: dict[str, Path] = {}
    left = []
    for part, reference in _references(config, None).items():
        find = already_here if is_converted(reference) else materialise
        look = partial(find, reference, default_cache_dir(), weights=_needs_weights(config, part))
        folder = _collect(problems, look, f"{part}.model: ")
        if folder is not None:
            folders[part] = folder
        else:
            left.append(f"{part}: {reference} is not converted yet; tokenizer checks are made when the run starts")
    new = _scratch(config, data.rows)
    if new is not None and new.is_made:
        folders["student"] = new.folder
    elif new is not None:
        left.append(f"student: {config.student.model} is not made yet; tokenizer checks are made when the run starts")
    fits = not (problems or left)
    job = _collect(problems, lambda: _fit(config, data, folders, config.student.prune)) if fits else None
    _collect(problems, lambda: _ask_servers(config))
    if problems:
        raise ConfigError(problems)
    return data, job, left


def _references(config: RunConfig, student: str | None) -> dict[str, str]:
    """References of models that exist, by the section that names them: `teacher` or `teachers.NAME`, `student`,
    perhaps `reward`."""
    models = {config.key_of(name): teacher.model for name, teacher in config.named_teachers.items()}
    if student is not None or config.student.model_type is None:
        models["student"] = student or config.student.model
    if config.reward is not None and config.reward.model is not None:
        models["reward"] = config.reward.model
    return models


def _scratch(config: RunConfig, rows: Rows) -> "ScratchModel | None":
    """The student that is to be made, on the text of the training rows; None where it is there already."""
    model_type, scratch = config.student.model_type, config.student.scratch
    if model_type is None or scratch is None:
        return None
    from gkd_dist.models.folders import default_cache_dir
    from gkd_dist.models.scratch import ScratchModel

    first = config.data.num_held_out
    training = rows.rows[first : None if config.data.num_train is None else first + config.data.num_train]
    texts = [text for row in training for text in row.texts]
    return ScratchModel(model_type, scratch, texts, config.seed, default_cache_dir())


def _needs_weights(config: RunConfig, part: str) -> bool:
    """A teacher behind a server is here for its tokenizer alone."""
    elsewhere = {config.key_of(name) for name, each in config.named_teachers.items() if each.engine == "server"}
    return part not in elsewhere


def _check_data(config: RunConfig, student: str | None, writes: bool) -> Data:
    """The first stage: everything that needs no model, and whether models given as folders or packages are there."""
    problems: list[str] = []
    rows = _find(config, student, writes, problems)
    mixture = _collect(problems, lambda: _mixture(config, rows))
    if rows is not None and config.objective.combine_teachers == "route":
        problems += route_problems(config.named_teachers, rows)
    limit = _collect(problems, lambda: _prompt_limit(config))
    _collect(problems, lambda: _check_reward(config, rows))
    if writes:
        _collect(problems, lambda: check_trackers(config))
    if problems or rows is None or mixture is None or limit is None:
        raise ConfigError(problems)
    return Data(rows, mixture, limit)


def not_there(config: RunConfig) -> list[str]:
    """What a configuration names and is not there, or cannot be read: one line for each file and folder.

    Args:
        config: may break the rules between its sections.
    """
    problems: list[str] = []
    _find(config, None, True, problems)
    return problems


def _find(config: RunConfig, student: str | None, writes: bool, problems: list[str]) -> Rows | None:
    """The rows, where they can be read; whether what the configuration names is there."""
    from gkd_dist.models.packaged import already_here, default_cache_dir

    rows = _collect(problems, lambda: read_rows(config.data))
    if writes:
        _collect(problems, lambda: check_output_dir(config.output_dir))
    if student is None and config.student.scratch is not None and config.student.model_type is not None:
        from gkd_dist.models.scratch import check_scratch

        _collect(problems, partial(check_scratch, config.student.model_type, config.student.scratch))
    for part, reference in _references(config, student).items():
        look = partial(already_here, reference, default_cache_dir(), weights=_needs_weights(config, part))
        _collect(problems, look, f"{part}.model: ")
    return rows


def _check_reward(config: RunConfig, rows: Rows | None) -> None:
    """Whether the reward can be computed, as far as that needs no model."""
    if config.reward is None:
        return
    if config.reward.type == "answer" and rows is not None:
        from gkd_dist.rewards.answer import check_references

        check_references(rows.rows, rows.source, config.reward.match)
    if config.reward.function is not None:
        from gkd_dist.rewards.function import load_function

        load_function(config.reward.function)


def _prompt_limit(config: RunConfig) -> int:
    """Longest prompt that leaves room for training's and evaluation's completions."""
    return prompt_limit(
        config.data,
        max_model_len=config.sampler.max_model_len,
        max_new_tokens=max(config.sampling.max_new_tokens, config.evaluation.max_new_tokens or 0),
    )


def _fit(config: RunConfig, data: Data, folders: Mapping[str, Path], prune: PruneConfig | None) -> PreparedJob:
    """The last stage: models, tokenizers and data together.

    Args:
        folders: by section, as `_references`; the student's is not yet pruned: a pruned model has the tokenizer and
            the context of its source.
    """
    from gkd_dist.models.pruning import check_request
    from gkd_dist.models.suitability import check_suitable, check_vocabulary
    from gkd_dist.teachers.prompt_log_probs import check_top_k

    problems: list[str] = []
    student = folders["student"]
    teachers = {name: folders[config.key_of(name)] for name in config.named_teachers}
    lengths = {"student": ("sampler", config.sampler.engine, config.sampler.max_model_len)}
    for name, teacher in config.named_teachers.items():
        lengths[config.key_of(name)] = (config.key_of(name), teacher.engine, teacher.num_positions)
    for part, (section, engine, max_model_len) in lengths.items():
        check = partial(check_suitable, max_model_len=max_model_len, section=section, engine=engine)
        _collect(problems, partial(check, folders[part], part))
    if prune is not None and not problems:
        _collect(problems, partial(check_request, student, prune.num_layers, prune.drop_layers))
    reward_model = folders.get("reward")
    if reward_model is not None:
        from gkd_dist.rewards.entailment import check_classifier

        _collect(problems, partial(check_classifier, reward_model))
    shared = [
        _collect(problems, partial(check_same_tokenizer, str(student), str(folder)), f"{config.key_of(name)}.model: ")
        for name, folder in teachers.items()
    ]
    renderer = _collect(problems, lambda: _renderer(config, student))
    if problems or renderer is None:
        raise ConfigError(problems)
    num_ids = min([num for num in shared if num is not None], default=renderer.num_ids)
    for part in lengths:
        _collect(problems, partial(check_vocabulary, folders[part], part, num_ids))
    for name, teacher in config.named_teachers.items():
        if teacher.transport == "topk":
            _collect(problems, partial(check_top_k, teacher.top_k, num_ids, config.key_of(name)))
    rendered = _collect(
        problems,
        lambda: render_prompts(data.rows.rows, renderer, config.data, max_prompt_tokens=data.max_prompt_tokens),
    )
    if rendered is not None and config.objective.combine_teachers == "route":
        problems += empty_sources(config.named_teachers, rendered)
    lora = config.student.lora
    if lora is not None:
        from gkd_dist.weights.adapters import check_targets

        _collect(problems, lambda: check_targets(student, lora))
    if rendered is not None:
        _collect(problems, lambda: _try_function(config, rendered))
    if problems or rendered is None:
        raise ConfigError(problems)
    blueprint = Blueprint(
        config=config,
        student=student,
        teachers=teachers,
        pad_token_id=renderer.pad_token_id,
        num_ids=num_ids,
        run_epoch=uuid.uuid4().hex,
        golden=_golden(config, renderer, num_ids),
        reward_model=reward_model,
    )
    return PreparedJob(blueprint, data.rows, rendered, renderer, data.mixture)


def _try_function(config: RunConfig, rendered: RenderedPrompts) -> None:
    """A reward function of the user's own is called once: it is the part of a run that was never run before."""
    if config.reward is None or config.reward.function is None:
        return
    from gkd_dist.rewards.function import check_function

    answers = [Answer(row.text, row.reference or "", row.reference) for row in rendered.train[:2]]
    check_function(config.reward.function, answers, timeout_s=config.cluster.request_timeout_s)


def _ask_servers(config: RunConfig) -> None:
    """Whether the servers of teachers answer, asked from here.

    Raises:
        ConfigError: with one line for each that does not.
    """
    problems: list[str] = []
    for name, teacher in config.named_teachers.items():
        if teacher.engine == "server":
            from gkd_dist.build.teacher import endpoint_of
            from gkd_dist.teachers.server_check import find_model

            endpoint = endpoint_of(teacher, config.key_of(name))
            _collect(problems, partial(find_model, endpoint, teacher.served_model_name))
    if problems:
        raise ConfigError(problems)


def _golden(config: RunConfig, renderer: Renderer, num_ids: int) -> tuple[Trajectory, ...]:
    """What teachers are checked with; nothing where there are none."""
    teachers = config.named_teachers.values()
    return golden_sequences(renderer, num_ids, min(each.max_model_len for each in teachers)) if teachers else ()


def _renderer(config: RunConfig, student: Path) -> Renderer:
    return Renderer(
        str(student), apply_chat_template=config.data.apply_chat_template, system_prompt=config.data.system_prompt
    )


def _collect(problems: list[str], check: Callable[[], T], prefix: str = "") -> T | None:
    """The result of `check`, or None with its problems noted, behind `prefix` where they do not name a key."""
    try:
        return check()
    except ConfigError as error:
        problems.extend(error.problems)
    except UserError as error:
        problems.append(f"{prefix}{error}")
    return None


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
