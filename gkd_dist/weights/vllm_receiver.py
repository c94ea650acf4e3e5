"""vLLM's end of weight publication on CPU: a WeightTransferEngine that reads shared-memory buckets.

vLLM finds `register` through the `vllm.general_plugins` entry point, in the actor and in its engine process alike;
the engine is chosen by WeightTransferConfig(backend="gkd_shared_memory").
"""

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.platforms import current_platform

from gkd_dist.types import TensorEntry, WeightManifest
from gkd_dist.weights.shared_memory import SharedBucket, SharedSegment, map_bucket
from gkd_dist.weights.tensors import read_tensors

if TYPE_CHECKING:
    from gkd_dist.weights.vllm_direct_reload import DirectReload

BACKEND = "gkd_shared_memory"
_ENTRY_FIELDS = [field.name for field in fields(TensorEntry)]
_ORPHAN_CHECK_S = 1.0
_LORA_PRODUCTS = "gkd_dist.weights.vllm_lone_adapter.LoneAdapterWrapper"
"""vLLM imports it when an engine starts with adapters."""


def register() -> None:
    """Entry point for vLLM's plugin loader; may be called more than once in a process."""
    if current_platform.is_cpu():
        # vLLM's bfloat16 attention uses AMX tiles without asking the kernel for them. A large model's first product
        # asks on the way; a small one dies of an illegal instruction.
        torch.cpu._init_amx()
        type(current_platform).get_punica_wrapper = classmethod(lambda cls: _LORA_PRODUCTS)  # noqa: ARG005
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryTransferEngine)
        _end_with_parent()


def _end_with_parent() -> None:
    """In an engine process: end when the process that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(_ORPHAN_CHECK_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


@dataclass
class SharedMemoryInitInfo(WeightTransferInitInfo):
    """Nothing to agree on: every update says where its bytes are."""


@dataclass
class SharedMemoryUpdateInfo(WeightTransferUpdateInfo):
    """Where the buckets lie and what is in them."""

    buckets: list[dict[str, Any]]
    tensors: list[dict[str, Any]]


def update_info(manifest: WeightManifest, segment: SharedSegment) -> dict[str, Any]:
    """The update request for a segment, in types that vLLM's own serialisation carries."""
    # Not `asdict`, which copies deeply: the engine stands still meanwhile.
    tensors = [{name: getattr(entry, name) for name in _ENTRY_FIELDS} for entry in manifest.tensors]
    return {"buckets": [asdict(bucket) for bucket in segment.buckets], "tensors": tensors}


class SharedMemoryTransferEngine(WeightTransferEngine[SharedMemoryInitInfo, SharedMemoryUpdateInfo]):
    """Loads checkpoint-format weights from shared memory: straight into the model, or layer by layer where something is
    quantised."""

    _direct: "DirectReload | None" = None
    """Of the model that was updated last."""

    init_info_cls = SharedMemoryInitInfo
    update_info_cls = SharedMemoryUpdateInfo

    def init_transfer_engine(self, init_info: SharedMemoryInitInfo) -> None:
        del init_info

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        from gkd_dist.weights.vllm_direct_reload import DirectReload, is_plain

        if self._direct is None or self._direct.model is not self.model:
            self._direct = DirectReload(self.model) if is_plain(self.model) else None
        if self._direct is not None:
            self._direct.begin()
        else:
            initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base method ends with an accelerator synchronisation that a CPU build does not have.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: SharedMemoryUpdateInfo) -> None:
        entries = [TensorEntry(**tensor | {"shape": tuple(tensor["shape"])}) for tensor in update_info.tensors]
        buckets = [map_bucket(SharedBucket(**bucket)) for bucket in update_info.buckets]
        weights = read_tensors(buckets, entries)
        if self._direct is not None:
            self._direct.load(weights)
        else:
            self.model.load_weights(weights)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        if self._direct is not None:
            self._direct.end()
            return
        finalize_layerwise_reload(self.model, self.model_config)
        self._repack_tied_heads()

    def _repack_tied_heads(self) -> None:
        """Bring tied LM heads up to date.

        On CPU a head multiplies with a packed copy of its weight. A tied head receives no weights of its own, so the
        layerwise reload leaves the copy of the former version in place.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Nothing is held between updates."""
