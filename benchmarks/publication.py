"""Measure weight publication: a learner's process to one or two receiving processes, and the stall that samplers see.

    .venv/bin/python benchmarks/publication.py --gb 0.1 0.5 --receivers 1 2
    .venv/bin/python benchmarks/publication.py --gb 2 --receivers 1
    .venv/bin/python benchmarks/publication.py --gb 2 --receivers 2 --ways engine put
    .venv/bin/python benchmarks/publication.py --gb 0.5 --receivers 1 --tensors 5000

Sizes are those of the weights as they are sent, in bfloat16. The first three commands need up to 9, 21 and 22 GB of
memory (at 2 GB, two receivers by all ways would need more than 23); what does not fit is refused before it starts.

The learner's actor holds the weights of a Llama-like model, or of `--tensors` equal ones, in float32, as the learner of
a run does, and casts them in every way; each receiver has parameters of its own in bfloat16. All of it goes over the
actors, proxies, publisher, manifest and subscription of a run. Ways take turns, round after round; the first round does
not count. After every turn each receiver looks at all of its parameters: they must be of one version, and that the
newest. Writes benchmarks/publication.json: what is measured now replaces the same ways of the same cases, and only ways
that took turns with one another are compared.

    model       ours, into a model in the receiving actor's process, as `HfSampler` does
    engine      ours, into an engine in a process of its own, which maps what the store holds, as `VllmSampler` does
    checkpoint  the learner writes safetensors to the disk (no flush), receivers read them
    put         the learner puts every tensor into the object store by itself, receivers get them
    copy        the floor: every receiver copies as many bytes within its own memory

The engine is none of vLLM's: what vLLM itself takes to pause and resume, and its round trips, are no part of its stall;
benchmarks/publication_vllm.py measures them.

`publisher_from_float32` is the publisher alone, without processes, in CPU time, beside a copy of what it sends;
`cast` is that copy with the conversion; `torch.isfinite` is what looking for NaN took it before it did so itself.
"""

import argparse
import asyncio
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from counts import positive
from publication_cases import check_memory, merged, name_of, store_bytes
from publication_engine import Model
from publication_parts import Receiver, ReceivingActor, SendingActor, SendingLearner, actor
from rounds import cpu_seconds, machine, summary, take_turns

from gkd_dist.cluster.proxies import LearnerProxy, SamplerProxy
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig, WeightsConfig
from gkd_dist.weights.manifest import digest
from gkd_dist.weights.publisher import WeightPublisher

RESULT = Path(__file__).with_suffix(".json")
WAYS = ("model", "engine", "checkpoint", "put", "copy")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, nargs="+", default=[0.1, 0.5])
    parser.add_argument("--receivers", type=positive, nargs="+", default=[1, 2])
    parser.add_argument("--tensors", type=positive, default=0, help="of equal size; default: those of a Llama")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    models = [Model(size, arguments.tensors) for size in arguments.gb]
    for model in models:
        check_memory(model.num_bytes, max(arguments.receivers), arguments.ways)
    result = {"cases": {}} | (json.loads(RESULT.read_text()) if RESULT.exists() else {})
    result["publisher_from_float32"] = publisher(arguments.rounds)
    for model in models:
        for receivers in arguments.receivers:
            about = {**machine(), "ray": ray.__version__, "torch": torch.__version__}
            found, maps = asyncio.run(measure(model, receivers, arguments.rounds, arguments.ways))
            name = name_of(model.name, receivers)
            case = merged(result["cases"].get(name, {}), found, model.num_bytes, about)
            if maps is not None:
                case["ways"]["engine"]["maps_the_store"] = maps
            result["cases"][name] = case
            RESULT.write_text(json.dumps(result, indent=2) + "\n")
            print(json.dumps(case, indent=2), flush=True)
    print(f"written to {RESULT}")


def publisher(num_rounds: int) -> dict[str, Any]:
    """CPU time of the publisher alone at 0.1 GB, beside one copy and parts of its work."""
    torch.set_num_threads(1)
    model = Model(0.1)
    weights = list(model.weights(torch.float32).items())
    received, sent = model.weights(), model.weights()
    for tensor in (*dict(weights).values(), *received.values(), *sent.values()):
        tensor.fill_(1)  # zeros that nobody wrote are one page of memory, always in the cache
    buckets = WeightPublisher("epoch-1", WeightsConfig().bucket_bytes, "bfloat16").publish(weights, 0).buckets
    num_bytes = sum(bucket.nbytes for bucket in buckets)
    places = [bucket.copy() for bucket in buckets]
    works = {
        "publisher": lambda: WeightPublisher("epoch-1", WeightsConfig().bucket_bytes, "bfloat16").publish(weights, 0),
        "copy": lambda: [np.copyto(place, bucket) for place, bucket in zip(places, buckets, strict=True)],
        "cast": lambda: [received[name].copy_(tensor) for name, tensor in weights],
        "digests": lambda: [digest(bucket) for bucket in buckets],
        "torch.isfinite": lambda: all(bool(tensor.isfinite().all()) for tensor in sent.values()),
    }
    taken = take_turns(works, num_rounds, time.process_time)
    return {"machine": machine(), **{name: summary(seconds, num_bytes) for name, seconds in taken.items()}}


async def measure(
    model: Model, num_receivers: int, num_rounds: int, ways: list[str]
) -> tuple[dict[str, list[dict[str, float]]], bool | None]:
    """Rounds of each way, and whether the engines mapped what the store holds; None without the engine."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    cluster = ClusterConfig(object_store_bytes=store_bytes(model.num_bytes))
    with ray_session(cluster), tempfile.TemporaryDirectory() as folder:
        learner_actor = actor(SendingActor, partial(SendingLearner, model))
        receivers = [actor(ReceivingActor, partial(Receiver, model, ways)) for _ in range(num_receivers)]
        learner = LearnerProxy(learner_actor, "learner", 300)
        samplers = [SamplerProxy(each, "sampler", 300, 1) for each in receivers]
        for proxy in (learner, *samplers):
            await proxy.build()
        version = 0
        for number in range(num_rounds + 1):
            for way in ways:
                version += 1
                await learner_actor.train_to.remote(version)
                await asyncio.gather(*(each.use.remote(way) for each in receivers))
                since = cpu_seconds()
                taken = await turn(way, learner, samplers, Path(folder) / "weights.safetensors")
                taken["cpu_s"] = cpu_seconds() - since
                if way != "copy":
                    await asyncio.gather(*(each.check.remote(way, version) for each in receivers))
                if number:
                    found[way].append(taken)
        maps = all(await asyncio.gather(*(each.maps.remote() for each in receivers))) if "engine" in ways else None
        for proxy in (*samplers, learner):
            await proxy.close()
    return found, maps


async def turn(way: str, learner: LearnerProxy, samplers: list[SamplerProxy], file: Path) -> dict[str, float]:
    """Seconds of sending, of receiving, of both, and of the longest stall."""
    start = time.perf_counter()
    sent: Any = None
    if way in ("model", "engine"):
        sent = await learner.publish()
    elif way == "checkpoint":
        await learner._actor.write.remote(file)
        sent = file
    elif way == "put":
        sent = await learner._actor.put_each.remote()
    middle = time.perf_counter()
    if way in ("model", "engine"):
        await asyncio.gather(*(each.load_weights(sent) for each in samplers))
    else:
        await asyncio.gather(*(each._actor.receive.remote(way, sent) for each in samplers))
    end = time.perf_counter()
    stalls = await asyncio.gather(*(each._actor.stall.remote() for each in samplers))
    return {"send_s": middle - start, "receive_s": end - middle, "total_s": end - start, "stall_s": max(stalls)}


if __name__ == "__main__":
    main()
