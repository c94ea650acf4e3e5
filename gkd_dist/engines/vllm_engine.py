"""A vLLM engine in this process: what all of them share, the start, and the end of a request."""

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from gkd_dist.errors import ConfigError, EngineError, RejectedError

_SHARED_ARGS: Mapping[str, Any] = {
    "skip_tokenizer_init": True,
    "disable_log_stats": True,
}
_CPU_ARGS: Mapping[str, Any] = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 1 << 30,
    # In the engine's own process: the default, a worker process beside it, burns a core waiting for its answers.
    "distributed_executor_backend": UniProcExecutor,
}
_OVERRIDES = "hf_overrides"


def start_engine(
    model: str,
    args: Mapping[str, Any],
    engine_args: Mapping[str, Any],
    *,
    section: str,
    cpu_args: Mapping[str, Any] | None = None,
) -> AsyncLLM:
    """An engine that runs `model`; blocks until it is up.

    Args:
        model: local folder in Hugging Face format.
        args: what the caller needs.
        engine_args: the user's, over everything else; see `merged_args`.
        section: where these stand, for messages: `sampler` or `teacher`.
        cpu_args: what the caller needs on CPU alone.

    Raises:
        ConfigError: vLLM does not know an argument of the user's.
    """
    # Raw engine threads, not a core each: on small machines the roles take turns on all cores.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if current_platform.is_cpu():
        # Compiled ahead of time, a model on CPU is compiled anew at each start: vLLM 0.32 fails to load what it saved.
        os.environ.setdefault("VLLM_USE_AOT_COMPILE", "0")
    unknown = sorted(engine_args.keys() - {field.name for field in fields(AsyncEngineArgs)})
    if unknown:
        raise ConfigError([f"{section}.engine_args.{name}: vLLM has no such engine argument" for name in unknown])
    of_platform = {**_CPU_ARGS, **(cpu_args or {})} if current_platform.is_cpu() else {}
    defaults = {**_SHARED_ARGS, **args, **of_platform}
    return AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **merged_args(defaults, engine_args)))


def merged_args(defaults: Mapping[str, Any], engine_args: Mapping[str, Any]) -> dict[str, Any]:
    """`engine_args` over `defaults`; of `hf_overrides`, key over key, so that one of the user's loses none of ours."""
    merged = {**defaults, **engine_args}
    overrides = {**defaults.get(_OVERRIDES, {}), **engine_args.get(_OVERRIDES, {})}
    return {**merged, _OVERRIDES: overrides} if overrides else merged


async def check_alive(engine: AsyncLLM) -> None:
    """Raises:
    EngineError: the engine's process is gone.
    """
    try:
        await engine.check_health()
    except EngineDeadError as error:
        raise EngineError("the vLLM engine died; the process that held it did not") from error


async def pause_between_tokens(engine: AsyncLLM) -> None:
    """Stop `engine` between two tokens; requests stay.

    `AsyncLLM.pause_generation` does the same, and then sleeps for 20 ms, so that callers see what was written before
    ahead of its return ("not required for correctness"). Here nobody looks at that order: tokens come with the version
    that wrote them. The way around it is none that vLLM promises, so that its absence is no error.
    """
    pause_scheduler = getattr(engine.engine_core, "pause_scheduler_async", None)
    if pause_scheduler is None:
        await engine.pause_generation(mode="keep", clear_cache=False)
    else:
        await pause_scheduler(mode="keep", clear_cache=False)


async def last_output(stream: AsyncIterator[Any], request_id: str) -> Any:
    """The end of one request.

    Raises:
        RejectedError: the engine takes no such request: it is too long, say.
        EngineError: the engine died, failed, or said nothing.
    """
    last = None
    try:
        async for output in stream:
            last = output
    except (VLLMClientError, ValueError) as error:
        raise RejectedError(f"the vLLM engine refuses {request_id}: {error}") from error
    except (EngineDeadError, EngineGenerateError) as error:
        if isinstance(error.__cause__, ValueError):
            raise RejectedError(f"the vLLM engine refuses {request_id}: {error.__cause__}") from error
        raise EngineError(f"the vLLM engine failed at {request_id} ({type(error).__name__}: {error})") from error
    if last is None:
        raise EngineError(f"the engine returned nothing for {request_id}")
    return last
