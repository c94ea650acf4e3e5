"""Which arguments of vLLM a configuration may set (floor F1).

Those of speed, memory and parallelism. Others could run code that nobody here has read (`trust_remote_code`,
`worker_cls`, `kv_transfer_config`), read pickled weights (`load_format`) or files (`allowed_local_media_path`), or
would write a secret beside the run (`hf_token`): a list of what may be set stays right when vLLM gets new ones.
"""

import difflib
from collections.abc import Mapping
from typing import Any

ALLOWED = frozenset({
    "all2all_backend", "async_scheduling", "attention_backend", "block_size", "cp_kv_cache_interleave_size",
    "cpu_offload_gb", "cudagraph_capture_sizes", "dcp_comm_backend", "decode_context_parallel_size",
    "disable_cascade_attn", "disable_custom_all_reduce", "disable_hybrid_kv_cache_manager", "disable_log_stats",
    "disable_sliding_window", "distributed_executor_backend", "distributed_timeout_seconds",
    "enable_chunked_prefill", "enable_eplb", "enable_expert_parallel", "enable_flashinfer_autotune",
    "enable_prefix_caching", "enforce_eager", "gpu_memory_utilization", "hf_overrides", "kv_cache_dtype",
    "kv_cache_memory_bytes", "kv_offloading_size", "language_model_only", "limit_mm_per_prompt", "linear_backend",
    "long_prefill_token_threshold", "max_cudagraph_capture_size", "max_num_batched_tokens", "max_num_seqs",
    "max_parallel_loading_workers", "model_impl", "moe_backend", "num_gpu_blocks_override", "numa_bind",
    "numa_bind_cpus", "numa_bind_nodes", "optimization_level", "performance_mode", "pipeline_parallel_size",
    "prefill_context_parallel_size", "prefix_caching_hash_algo", "quantization", "scheduling_policy", "seed",
    "stream_interval", "tensor_parallel_size", "use_tqdm_on_load",
})  # fmt: skip
_CHOICES = {"distributed_executor_backend": ("mp", "ray", "uni")}
"""Where vLLM also takes the name of a class, which it imports."""


def engine_args_problems(engine: str, engine_args: Mapping[str, Any]) -> list[str]:
    """What is wrong with them, one line each, without their values: one of them may be a secret.

    Args:
        engine: that they are for; only `vllm` takes any.
    """
    if not engine_args:
        return []
    if engine != "vllm":
        return [f"the {engine} engine takes no engine_args; use engine=vllm, or set engine_args={{}}"]
    problems = [
        f"engine_args.{name} is not one that may be set{_hint(name)}" for name in sorted(engine_args.keys() - ALLOWED)
    ]
    for name, choices in _CHOICES.items():
        if name in engine_args and engine_args[name] not in choices:
            problems.append(f"engine_args.{name} must be one of {', '.join(choices)}")
    if not isinstance(engine_args.get("hf_overrides", {}), dict):
        problems.append("engine_args.hf_overrides must be a mapping (key: value); see vLLM's --hf-overrides")
    return problems


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, sorted(ALLOWED), n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else "; remove it (docs/security.md says which may, and why)"
