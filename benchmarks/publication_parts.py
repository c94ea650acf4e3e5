"""Learner and receivers of benchmarks/publication.py: they send and take weights by every way, and compute nothing."""

import asyncio
import multiprocessing
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from elastic_parts import CountingLearner
from publication_engine import Model, Weights, value_range
from safetensors.torch import load_file, save_file

from gkd_dist.cluster.actors import CONCURRENCY_GROUPS, LearnerActor, SamplerActor
from gkd_dist.config.ring import WeightsConfig
from gkd_dist.process import actor_environment
from gkd_dist.samplers.weight_updates import WeightUpdates
from gkd_dist.serial import SerialThread
from gkd_dist.testing.fakes import FakeSampler
from gkd_dist.types import ByteArray, WeightManifest, WeightPublication
from gkd_dist.weights.manifest import verify
from gkd_dist.weights.publisher import WeightPublisher
from gkd_dist.weights.shared_memory import SharedSegment
from gkd_dist.weights.subscription import Subscription
from gkd_dist.weights.tensors import read_tensors

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

ENGINE = str(Path(__file__).with_name("publication_engine.py"))


class StreamingLearner(CountingLearner):
    """Publishes `weights` as the learner of a run does: bucket by bucket, in bfloat16."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights
        self.version = 0
        self._publisher = WeightPublisher("epoch-1", WeightsConfig().bucket_bytes, "bfloat16")
        self._thread = SerialThread("learner")

    async def stream(self) -> AsyncIterator[ByteArray | WeightManifest]:
        parts = self._publisher.stream(list(self.weights.items()), self.version)
        async with aclosing(self._thread.ahead(lambda: next(parts, None))) as filled:
            async for part in filled:
                yield part
                del part


class SendingLearner(StreamingLearner):
    """Holds weights that all have the value of their version, in float32 as learners do."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.weights(torch.float32))


class SendingActor(LearnerActor):
    async def train_to(self, version: int) -> None:
        self._part.version = version  # type: ignore[attr-defined]
        for tensor in self._weights.values():
            tensor.fill_(version)

    async def write(self, file: Path) -> None:
        save_file({name: tensor.to(torch.bfloat16) for name, tensor in self._weights.items()}, file)

    async def put_each(self) -> dict[str, Any]:
        return {
            name: ray.put(tensor.to(torch.bfloat16).view(torch.uint16).numpy())
            for name, tensor in self._weights.items()
        }

    @property
    def _weights(self) -> Weights:
        return self._part.weights  # type: ignore[attr-defined]


class Receiver(FakeSampler):
    """Takes weights by every way. `model` parameters are here; those of the engine are in its process."""

    def __init__(self, model: Model, ways: list[str]) -> None:
        super().__init__()
        torch.set_num_threads(1)
        self.weights = model.weights(meta=set(ways) == {"engine"})
        self.engine = EngineProcess(model) if "engine" in ways else None
        self.way = "model"
        self.stall_s = 0.0
        shapes = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        self._subscriptions = {way: Subscription(shapes, 0) for way in ("model", "engine")}
        if self.engine is not None:
            of_engine = self._subscriptions["engine"]
            self._updates = WeightUpdates(self.engine, self.engine.pause, of_engine, self._swap, "keep")
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

    async def maps(self) -> bool:
        """Whether its engine always mapped the store's own bytes."""
        return self._part._updates.copied_bytes == 0  # type: ignore[attr-defined]


class EngineProcess:
    """An engine that only loads weights, as vLLM's does; implements `weight_updates.PausableEngine`."""

    def __init__(self, model: Model) -> None:
        self._end, other = multiprocessing.Pipe()
        command = [sys.executable, ENGINE, *map(str, (other.fileno(), model.size_gb, model.num_tensors))]
        self._process = subprocess.Popen(command, pass_fds=[other.fileno()])
        other.close()
        self._paused_at = self.stall_s = 0.0

    def ask(self, question: Any) -> Any:
        self._end.send(question)
        return self._end.recv()

    async def pause(self) -> None:
        self._paused_at = time.perf_counter()

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None: ...

    async def reset_prefix_cache(self, reset_running_requests: bool) -> bool:  # noqa: ARG002 - of the Protocol
        return True

    async def update_weight_version(self, new_version: str) -> None: ...

    async def resume_generation(self) -> None:
        self.stall_s = time.perf_counter() - self._paused_at


def actor(cls: type, make: Any) -> Any:
    environment = {"env_vars": actor_environment()}  # that of a run
    remote = ray.remote(num_cpus=0, concurrency_groups=CONCURRENCY_GROUPS, runtime_env=environment)(cls)
    return remote.remote(make)
