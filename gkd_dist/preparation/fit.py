"""The last stage of preparation: models, tokenizers and data together (floor F5)."""

import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from gkd_dist.build import Blueprint
from gkd_dist.build.reward import TIMEOUT_KEY
from gkd_dist.config.models import PruneConfig
from gkd_dist.config.run import RunConfig
from gkd_dist.data.golden import golden_sequences
from gkd_dist.data.prompts import render_prompts
from gkd_dist.data.rendering import Renderer, check_same_tokenizer
from gkd_dist.data.routes import empty_sources
from gkd_dist.errors import ConfigError
from gkd_dist.preparation.prepared import Data, PreparedJob
from gkd_dist.preparation.problems import collect
from gkd_dist.preparation.reward import NUM_TRIED, try_function
from gkd_dist.types import Trajectory


def fit(config: RunConfig, data: Data, folders: Mapping[str, Path], prune: PruneConfig | None) -> PreparedJob:
    """The last stage: models, tokenizers and data together.

    Args:
        folders: by section, as `references`; the student's is not yet pruned: a pruned model has the tokenizer and
            the context of its source.
    """
    from gkd_dist.models.pruning import check_request
    from gkd_dist.models.suitability import check_suitable, check_vocabulary
    from gkd_dist.teachers.prompt_log_probs import check_top_k

    problems: list[str] = []
    student = folders["student"]
    teachers = {name: folders[config.key_of(name)] for name in config.named_teachers}
    lengths: dict[str, tuple[str, str, int]] = {
        "student": ("sampler", config.sampler.engine, config.sampler.max_model_len)
    }
    for name, teacher in config.named_teachers.items():
        lengths[config.key_of(name)] = (config.key_of(name), teacher.engine, teacher.num_positions)
    for part, (section, engine, max_model_len) in lengths.items():
        check = partial(check_suitable, max_model_len=max_model_len, section=section, engine=engine)
        collect(problems, partial(check, folders[part], part))
    if prune is not None and not problems:
        collect(problems, partial(check_request, student, prune.num_layers, prune.drop_layers))
    reward_model = folders.get("reward")
    if reward_model is not None:
        from gkd_dist.rewards.entailment import check_classifier

        collect(problems, partial(check_classifier, reward_model))
    shared = [
        collect(problems, partial(check_same_tokenizer, str(student), str(folder)), f"{config.key_of(name)}.model: ")
        for name, folder in teachers.items()
    ]
    renderer = collect(problems, lambda: _renderer(config, student))
    if problems or renderer is None:
        raise ConfigError(problems)
    num_ids = min([num for num in shared if num is not None], default=renderer.num_ids)
    for part in lengths:
        collect(problems, partial(check_vocabulary, folders[part], part, num_ids))
    for name, teacher in config.named_teachers.items():
        if teacher.transport == "topk":
            collect(problems, partial(check_top_k, teacher.top_k, num_ids, config.key_of(name)))
    rendered = collect(
        problems,
        lambda: render_prompts(data.rows.rows, renderer, config.data, max_prompt_tokens=data.max_prompt_tokens),
    )
    if rendered is not None and config.objective.combine_teachers == "route":
        problems += empty_sources(config.named_teachers, rendered)
    lora = config.student.lora
    if lora is not None:
        from gkd_dist.weights.adapters import check_targets

        collect(problems, lambda: check_targets(student, lora))
    if rendered is not None:
        tried = [(row.text, row.reference) for row in rendered.train[:NUM_TRIED]]
        timeout_s = config.cluster.request_timeout_s
        collect(problems, lambda: try_function(config.reward, tried, timeout_s=timeout_s, timeout_key=TIMEOUT_KEY))
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


def _golden(config: RunConfig, renderer: Renderer, num_ids: int) -> tuple[Trajectory, ...]:
    """What teachers are checked with; nothing where there are none."""
    teachers = config.named_teachers.values()
    return golden_sequences(renderer, num_ids, min(each.max_model_len for each in teachers)) if teachers else ()


def _renderer(config: RunConfig, student: Path) -> Renderer:
    return Renderer(
        str(student), apply_chat_template=config.data.apply_chat_template, system_prompt=config.data.system_prompt
    )
