"""Measure weight publication: a learner's process to one or two receiving processes, and the stall that samplers see.

    .venv/bin/python benchmarks/publication.py [--gb 0.1 0.5] [--receivers 1 2] [--rounds 5]

The learner's actor holds the weights of a Llama-like model in bfloat16; each receiver has parameters of its own. All of
it goes over the actors, proxies, publisher, manifest and subscription of a run. Ways take turns, round after round; the
first round does not count. After every turn each receiver looks at all of its parameters: they must be of one version,
and that the newest. Writes benchmarks/publication.json; sizes that are measured alone replace only their own figures.

    model       ours, into a model in the receiving actor's process, as `HfSampler` does
    engine      ours, into an engine in a process of its own, which maps what the store holds, as `VllmSampler` does
    checkpoint  the learner writes safetensors to the disk (no flush), receivers read them
    put         the learner puts every tensor into the object store by itself, receivers get them
    copy        the floor: every receiver copies as many bytes within its own memory

`publisher` is the publisher alone, without processes, in CPU time; `torch.isfinite` is what looking for NaN took it
before it did so itself.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from elastic_parts import CountingLearner
from publication_engine import GB, Weights, make_weights, value_range
from rounds import cpu_seconds, machine, summary, take_turns
from safetensors.torch import load_file, save_file

from gkd_dist.cluster.actors import CONCURRENCY_GROUPS, LearnerActor, SamplerActor
from gkd_dist.cluster.proxies import LearnerProxy, SamplerProxy
from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig, WeightsConfig
from gkd_dist.process import actor_environment
from gkd_dist.samplers.weight_updates import WeightUpdates
from gkd_dist.serial import SerialThread
from gkd_dist.testing.fakes import FakeSampler
from gkd_dist.types import ByteArray, WeightManifest, WeightPublication
from gkd_dist.weights.manifest import digest, verify
from gkd_dist.weights.publisher import WeightPublisher
from gkd_dist.weights.shared_memory import SharedSegment
from gkd_dist.weights.subscription import Subscription
from gkd_dist.weights.tensors import read_tensors

RESULT = Path(__file__).with_suffix(".json")
ENGINE = str(RESULT.with_name("publication_engine.py"))
WAYS = ("model", "engine", "checkpoint", "put", "copy")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, nargs="+", default=[0.1, 0.5])
    parser.add_argument("--receivers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"cases": {}}
    result["publisher"] = publisher(arguments.rounds)
    result["machine"] = {**machine(), "ray": ray.__version__, "torch": torch.__version__}
    for size in arguments.gb:
        for receivers in arguments.receivers:
            case = asyncio.run(measure(size, receivers, arguments.rounds, arguments.ways))
            result["cases"][f"{size} GB to {receivers}"] = case
            RESULT.write_text(json.dumps(result, indent=2) + "\n")
            print(json.dumps(case, indent=2), flush=True)
    print(f"written to {RESULT}")


def publisher(num_rounds: int) -> dict[str, Any]:
    """CPU time of the publisher alone at 0.1 GB, beside one copy and parts of its work."""
    torch.set_num_threads(1)
    weights = list(make_weights(0.1).items())
    buckets = WeightPublisher("epoch-1", WeightsConfig().bucket_bytes, "bfloat16").publish(weights, 0).buckets
    num_bytes = sum(bucket.nbytes for bucket in buckets)
    places = [np.zeros_like(bucket) for bucket in buckets]
    works = {
        "publisher": lambda: WeightPublisher("epoch-1", WeightsConfig().bucket_bytes, "bfloat16").publish(weights, 0),
        "copy": lambda: [np.copyto(place, bucket) for place, bucket in zip(places, buckets, strict=True)],
        "digests": lambda: [digest(bucket) for bucket in buckets],
        "torch.isfinite": lambda: all(bool(tensor.isfinite().all()) for _, tensor in weights),
    }
    taken = take_turns(works, num_rounds, time.process_time)
    return {name: summary(seconds, num_bytes) for name, seconds in taken.items()}


async def measure(size_gb: float, num_receivers: int, num_rounds: int, ways: list[str]) -> dict[str, Any]:
    num_bytes = sum(tensor.nbytes for tensor in make_weights(size_gb, meta=True).values())
    store = int(3.5 * num_bytes) + (256 << 20)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with ray_session(ClusterConfig(object_store_bytes=store)), tempfile.TemporaryDirectory() as folder:
        learner_actor = actor(SendingActor, partial(SendingLearner, size_gb))
        receivers = [actor(ReceivingActor, partial(Receiver, size_gb, ways)) for _ in range(num_receivers)]
        learner = LearnerProxy(learner_actor, "learner", 300)
        samplers = [SamplerProxy(each, "sampler", 300, 1) for each in receivers]
        for proxy in (learner, *samplers):
            await proxy.build()
        version = 0
        for number in range(num_rounds + 1):
            for way in ways:
                version += 1
                await learner_actor.train_to.remote(version)
                since = cpu_seconds()
                taken = await turn(way, learner, samplers, Path(folder) / "weights.safetensors")
                taken["cpu_s"] = cpu_seconds() - since
                if way != "copy":
                    await asyncio.gather(*(each.check.remote(way, version) for each in receivers))
                if number:
                    found[way].append(taken)
        for proxy in (*samplers, learner):
            await proxy.close()
    return judged(found, num_bytes, num_receivers)


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
        await asyncio.gather(*(each._actor.use.remote(way) for each in samplers))
        await asyncio.gather(*(each.load_weights(sent) for each in samplers))
    else:
        await asyncio.gather(*(each._actor.receive.remote(way, sent) for each in samplers))
    end = time.perf_counter()
    stalls = await asyncio.gather(*(each._actor.stall.remote() for each in samplers))
    return {"send_s": middle - start, "receive_s": end - middle, "total_s": end - start, "stall_s": max(stalls)}


def judged(found: dict[str, list[dict[str, float]]], num_bytes: int, num_receivers: int) -> dict[str, Any]:
    ways = {
        way: {
            **{key.replace("_s", "_min_s"): round(min(each[key] for each in taken), 4) for key in taken[0]},
            **{
                key.replace("_s", "_median_s"): round(statistics.median(each[key] for each in taken), 4)
                for key in taken[0]
            },
            "best_gb_per_s": round(num_bytes / min(each["total_s"] for each in taken) / GB, 3),
        }
        for way, taken in found.items()
    }
    return {
        "bytes": num_bytes,
        "receivers": num_receivers,
        "rounds": len(next(iter(found.values()))),
        "bytes_per_s": "of one copy of the weights over the whole of sending and receiving",
        "ways": ways,
        "times_as_fast": {
            f"{ours} over {other}": {
                "wall": round(ways[other]["total_min_s"] / ways[ours]["total_min_s"], 2),
                "wall_median": round(ways[other]["total_median_s"] / ways[ours]["total_median_s"], 2),
                "cpu": round(ways[other]["cpu_min_s"] / ways[ours]["cpu_min_s"], 2),
            }
            for ours in ("model", "engine")
            for other in ("checkpoint", "put", "copy")
            if ours in ways and other in ways
        },
    }


class SendingLearner(CountingLearner):
    """Holds weights that all have the value of their version."""

    def __init__(self, size_gb: float) -> None:
        super().__init__()
        self.weights = make_weights(size_gb)
        self.version = 0
        self._publisher = WeightPublisher("epoch-1", WeightsConfig().bucket_bytes, "bfloat16")
        self._thread = SerialThread("learner")

    async def stream(self) -> AsyncIterator[ByteArray | WeightManifest]:
        parts = self._publisher.stream(list(self.weights.items()), self.version)
        async with aclosing(self._thread.ahead(lambda: next(parts, None))) as filled:
            async for part in filled:
                yield part
                del part


class SendingActor(LearnerActor):
    async def train_to(self, version: int) -> None:
        self._part.version = version  # type: ignore[attr-defined]
        for tensor in self._weights.values():
            tensor.fill_(version)

    async def write(self, file: Path) -> None:
        save_file(self._weights, file)

    async def put_each(self) -> dict[str, Any]:
        return {name: ray.put(tensor.view(torch.uint16).numpy()) for name, tensor in self._weights.items()}

    @property
    def _weights(self) -> Weights:
        return self._part.weights  # type: ignore[attr-defined]


class Receiver(FakeSampler):
    """Takes weights by every way. `model` parameters are here; those of the engine are in its process."""

    def __init__(self, size_gb: float, ways: list[str]) -> None:
        super().__init__()
        torch.set_num_threads(1)
        self.weights = make_weights(size_gb) if set(ways) - {"engine"} else make_weights(size_gb, meta=True)
        self.engine = EngineProcess(size_gb) if "engine" in ways else None
        self.way = "model"
        self.stall_s = 0.0
        shapes = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        self._subscriptions = {way: Subscription(shapes, 0) for way in ("model", "engine")}
        self._updates = WeightUpdates(self.engine, self._subscriptions["engine"], self._swap, "keep")  # type: ignore[arg-type]
        self._spare: np.ndarray | None = None

    async def load_weights(self, publication: WeightPublication) -> int:
        if self.way == "engine":
            await self._updates.run(publication)
            self.stall_s = self.engine.stall_s  # type: ignore[union-attr]
        else:
            self._load(publication)
        return publication.manifest.version

    def _load(self, publication: WeightPublication) -> None:
        """As `HfSampler`: nothing is sampled meanwhile."""
        manifest, start = publication.manifest, time.perf_counter()
        subscription = self._subscriptions["model"]
        subscription.check(manifest)
        buckets: list[ByteArray] = [np.asarray(bucket) for bucket in publication.buckets]
        verify(manifest, buckets)
        self._take(dict(read_tensors(buckets, manifest.tensors)))
        subscription.accept(manifest)
        self.stall_s = time.perf_counter() - start

    async def _swap(self, manifest: WeightManifest, segment: SharedSegment) -> None:
        await asyncio.to_thread(self.engine.ask, (segment.buckets, manifest.tensors))  # type: ignore[union-attr]

    def receive(self, way: str, sent: Any) -> None:
        start = time.perf_counter()
        if way == "checkpoint":
            self._take(load_file(sent))
        elif way == "put":
            arrays = dict(zip(sent, ray.get(list(sent.values())), strict=True))
            self._take({name: torch.from_numpy(array).view(torch.bfloat16) for name, array in arrays.items()})
        else:
            if self._spare is None:
                self._spare = np.zeros(sum(tensor.nbytes for tensor in self.weights.values()), np.uint8)
            offset = 0
            for tensor in self.weights.values():
                flat = tensor.view(torch.uint8).numpy().reshape(-1)
                np.copyto(self._spare[offset : offset + flat.size], flat)
                offset += flat.size
        self.stall_s = time.perf_counter() - start

    def check(self, way: str, version: int) -> None:
        least, most = self.engine.ask("range") if way == "engine" else value_range(self.weights)  # type: ignore[union-attr]
        if not least == most == version:
            raise ValueError(f"{way}: the weights are of versions {least} to {most}, not {version}")

    def _take(self, tensors: Weights) -> None:
        for name, tensor in tensors.items():
            self.weights[name].copy_(tensor)


class ReceivingActor(SamplerActor):
    async def use(self, way: str) -> None:
        self._part.way = way  # type: ignore[attr-defined]

    async def receive(self, way: str, sent: Any) -> None:
        await asyncio.to_thread(self._part.receive, way, sent)  # type: ignore[attr-defined]

    async def check(self, way: str, version: int) -> None:
        self._part.check(way, version)  # type: ignore[attr-defined]

    async def stall(self) -> float:
        return self._part.stall_s  # type: ignore[attr-defined]


class EngineProcess:
    """An engine that only loads weights, as vLLM's does; implements `weight_updates.PausableEngine`."""

    def __init__(self, size_gb: float) -> None:
        self._end, other = multiprocessing.Pipe()
        command = [sys.executable, ENGINE, str(other.fileno()), str(size_gb)]
        self._process = subprocess.Popen(command, pass_fds=[other.fileno()])
        other.close()
        self._paused_at = self.stall_s = 0.0

    def ask(self, question: Any) -> Any:
        self._end.send(question)
        return self._end.recv()

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None:  # noqa: ARG002 - of the Protocol
        self._paused_at = time.perf_counter()

    async def reset_prefix_cache(self, reset_running_requests: bool) -> bool:  # noqa: ARG002 - of the Protocol
        return True

    async def update_weight_version(self, new_version: str) -> None: ...

    async def resume_generation(self) -> None:
        self.stall_s = time.perf_counter() - self._paused_at


def actor(cls: type, make: Any) -> Any:
    environment = {"env_vars": actor_environment()}  # that of a run
    remote = ray.remote(num_cpus=0, concurrency_groups=CONCURRENCY_GROUPS, runtime_env=environment)(cls)
    return remote.remote(make)


if __name__ == "__main__":
    main()
