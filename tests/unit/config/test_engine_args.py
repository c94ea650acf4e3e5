"""Arguments of vLLM: those of speed pass, those that run code, read files or hold secrets do not."""

from typing import Any

import pytest

from gkd_dist.config.engine_args import ALLOWED
from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.config.load import load_run_config
from gkd_dist.config.models import RESERVED_ENGINE_ARGS
from tests import run_configs

VLLM = ("student.model=s", "teacher.model=t", "sampler.engine=vllm", "teacher.engine=vllm")
REFUSED = (
    "trust_remote_code", "hf_token", "load_format", "worker_cls", "worker_extension_cls", "allowed_local_media_path",
    "allowed_media_domains", "scheduler_cls", "logits_processors", "io_processor_plugin", "reasoning_parser_plugin",
    "kv_transfer_config", "ec_transfer_config", "speculative_config", "compilation_config", "additional_config",
    "model_loader_extra_config", "model_class_overrides", "pt_load_map_location", "download_dir", "tokenizer",
    "code_revision", "hf_config_path", "weight_transfer_config", "log_config_file", "otlp_traces_endpoint",
)  # fmt: skip


def problems_of(*overrides: str) -> list[str]:
    return run_configs.problems_of("tiny", (*VLLM, *overrides))


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("role", ["sampler", "teacher"])
def test_what_runs_code_reads_files_or_holds_a_secret_is_refused_and_not_shown(role: str, name: str) -> None:
    (problem,) = problems_of(f"{role}.engine_args.{name}=sesame")
    assert problem.startswith(f"{role}: engine_args.{name} is ")
    assert "sesame" not in problem
    with pytest.raises(ValueError, match=rf"engine_args\.{name} is not one that may be set"):
        EvalConfig.model_validate({"model": "m", "data": "d", "engine": "vllm", "engine_args": {name: "sesame"}})


def test_nothing_that_is_refused_may_be_set_by_another_list() -> None:
    assert not ALLOWED & {*REFUSED}
    assert not [name for name in ALLOWED if any(word in name for word in ("_cls", "plugin", "path", "remote", "url"))]
    assert RESERVED_ENGINE_ARGS.keys() & ALLOWED == {"enable_prefix_caching"}, "a sampler may choose it"


def test_arguments_of_speed_pass() -> None:
    args: dict[str, Any] = {"max_num_seqs": 16, "gpu_memory_utilization": 0.5, "tensor_parallel_size": 2}
    words = [f"{role}.engine_args.{name}={value}" for role in ("sampler", "teacher") for name, value in args.items()]
    config = load_run_config("tiny", (*VLLM, *words))
    assert config.sampler.engine_args == args == config.teacher.engine_args  # type: ignore[union-attr]


def test_a_misspelt_one_is_told_the_name() -> None:
    (problem,) = problems_of("sampler.engine_args.gpu_memory_utilisation=0.5")
    assert problem.endswith("is not one that may be set; did you mean gpu_memory_utilization?")


def test_an_executor_is_one_of_vllms_own_and_no_class_to_import() -> None:
    (problem,) = problems_of("sampler.engine_args.distributed_executor_backend=mine.Executor")
    assert problem == "sampler: engine_args.distributed_executor_backend must be one of mp, ray, uni"
