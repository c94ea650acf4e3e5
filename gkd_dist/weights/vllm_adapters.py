"""vLLM's end of adapter publication: one low-rank adapter that every request of the student carries.

The adapter is a peft folder in shared memory, under one name for the life of the engine. An update rewrites the folder
and makes the engine read it again in place, so requests in flight go on with the new version.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from vllm.config.lora import MaxLoRARanks
from vllm.lora.request import LoRARequest

from gkd_dist.config.lora import LoraConfig
from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.types import WeightManifest
from gkd_dist.weights.adapters import adapter_tensors, attach, write_adapter
from gkd_dist.weights.shared_memory import SharedSegment, map_bucket
from gkd_dist.weights.tensors import read_tensors

_NAME = "student"
_ID = 2  # vLLM numbers the dummies of its warm-up from 1


class AdapterEngine(Protocol):
    """What an update needs of `AsyncLLM`."""

    async def add_lora(self, lora_request: LoRARequest) -> bool: ...


class EngineAdapter:
    """The adapter of one engine; 0 until the first update, so that version 0 is the base model.

    Args:
        model: folder of the base model.
        config: which modules, which rank.

    Raises:
        ConfigError: a rank that vLLM does not serve.
        ModelError: modules that cannot have adapters.
    """

    def __init__(self, model: str | Path, config: LoraConfig) -> None:
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
            self._peft = attach(skeleton, config)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in adapter_tensors(skeleton).items()}
        self.engine_args: dict[str, Any] = {"enable_lora": True, "max_loras": 1, "max_lora_rank": _max_rank(config.r)}
        self._segment = SharedSegment()
        self._write((name, torch.zeros(shape)) for name, shape in self.shapes.items())

    @property
    def request(self) -> LoRARequest:
        """What a generation request carries; the engine reads the folder where it holds no version yet."""
        return LoRARequest(_NAME, _ID, str(self._segment.folder))

    async def load(self, engine: AdapterEngine, manifest: WeightManifest, published: SharedSegment) -> None:
        """Make the paused `engine` apply the version in `published`."""
        buckets = [map_bucket(bucket) for bucket in published.buckets]
        self._write(read_tensors(buckets, manifest.tensors))
        request = LoRARequest(_NAME, _ID, str(self._segment.folder), load_inplace=True)
        if not await engine.add_lora(request):
            raise EngineError("the engine did not take the adapter")

    def close(self) -> None:
        self._segment.close()

    def _write(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        write_adapter(self._segment.folder, self._peft, dict(tensors))


def _max_rank(rank: int) -> int:
    """vLLM makes room for one of a few ranks."""
    served = sorted(get_args(MaxLoRARanks))
    if rank > served[-1]:
        raise ConfigError(
            [
                f"student.lora.r: vLLM serves ranks up to {served[-1]}, not {rank}; lower it, or set "
                "student.lora.publish=merged"
            ]
        )
    return next(candidate for candidate in served if candidate >= rank)
