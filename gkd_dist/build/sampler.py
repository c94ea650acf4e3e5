"""Which sampler a configuration asks for."""

from typing import TYPE_CHECKING

from gkd_dist.build.environment import device_of, quiet_vllm
from gkd_dist.interfaces import Sampler

if TYPE_CHECKING:
    from gkd_dist.build.blueprint import Blueprint


def make_sampler(blueprint: "Blueprint") -> Sampler:
    sampler, lora = blueprint.config.sampler, blueprint.config.student.lora
    adapter = lora if lora is not None and lora.publish == "adapter" else None
    if sampler.engine == "hf":
        from gkd_dist.samplers.hf_sampler import HfSampler

        (teacher,) = blueprint.teachers.values() if blueprint.config.sampling.teacher_mix > 0 else (None,)
        return HfSampler(
            blueprint.student,
            dtype=sampler.dtype,
            pad_token_id=blueprint.pad_token_id,
            num_ids=blueprint.num_ids,
            adapter=adapter,
            max_batch_size=sampler.max_batch_size,
            teacher=teacher,
            device=device_of(blueprint.config.cluster.num_gpus_per_sampler),
        )
    quiet_vllm()
    from gkd_dist.samplers.vllm_sampler import VllmSampler

    return VllmSampler(
        str(blueprint.student),
        dtype=sampler.dtype,
        max_model_len=sampler.max_model_len,
        engine_args=sampler.engine_args,
        num_ids=blueprint.num_ids,
        adapter=adapter,
        kv_cache=blueprint.config.weights.kv_cache,
    )
