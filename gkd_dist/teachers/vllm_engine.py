"""vLLM engines for teachers: what all of them share, and the start."""

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from gkd_dist.errors import ConfigError

_SHARED_ARGS: Mapping[str, Any] = {
    "skip_tokenizer_init": True,
    # A cached prefix would come back without its hidden states and log-probs.
    "enable_prefix_caching": False,
    "disable_log_stats": True,
}
_CPU_ARGS: Mapping[str, Any] = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 1 << 30,
    # In the engine's own process: the default, a worker process beside it, burns a core waiting for its answers.
    "distributed_executor_backend": UniProcExecutor,
}


def start_engine(
    model: str,
    args: Mapping[str, Any],
    engine_args: Mapping[str, Any],
    *,
    cpu_args: Mapping[str, Any] | None = None,
) -> AsyncLLM:
    """An engine that runs `model`; blocks until it is up.

    Args:
        model: local folder in Hugging Face format.
        args: what the caller needs.
        engine_args: the user's, over everything else.
        cpu_args: what the caller needs on CPU alone.

    Raises:
        ConfigError: vLLM does not know an argument of the user's.
    """
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    unknown = sorted(engine_args.keys() - {field.name for field in fields(AsyncEngineArgs)})
    if unknown:
        raise ConfigError([f"teacher.engine_args.{name}: vLLM has no such engine argument" for name in unknown])
    of_platform = {**_CPU_ARGS, **(cpu_args or {})} if current_platform.is_cpu() else {}
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(model=model, **{**_SHARED_ARGS, **args, **of_platform, **engine_args})
    )
