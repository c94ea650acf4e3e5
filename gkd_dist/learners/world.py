"""The learner ranks as each of them sees the others: alone, or a process group."""

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from gkd_dist.errors import DeadlineError, EngineError
from gkd_dist.learners.seat import RankSeat

_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
_CONTROL = torch.device("cpu")
"""What ranks tell each other are small CPU tensors, whatever they train on."""


class World(Protocol):
    """Every method is a collective: all ranks call it, in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def everyone(self, value: Any) -> list[Any]:
        """What every rank has told, in the order of ranks: numbers, texts, None, lists and dicts of them."""
        ...

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor of which each rank may hold a part."""
        ...

    def close(self) -> None: ...


class Alone:
    """Implements `World`: the only rank."""

    rank = 0
    size = 1

    def everyone(self, value: Any) -> list[Any]:
        return [value]

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor

    def close(self) -> None:
        """Nothing to close."""


ALONE = Alone()


class RankGroup:
    """Implements `World` over torch.distributed. One per process: it is torch's default process group.

    gloo on CPU; nccl on CUDA is untested.

    Raises:
        DeadlineError: not all ranks came.
    """

    def __init__(self, seat: RankSeat, device: str = "cpu") -> None:
        setup = timedelta(seconds=seat.setup_timeout_s)
        if seat.host.startswith("127."):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())  # gloo would listen at what the host is called
        options: Mapping[str, Any] = {} if seat.listener is None else {"master_listen_fd": seat.listener}
        try:
            store = dist.TCPStore(seat.host, seat.port, seat.size, seat.rank == 0, setup, **options)
            dist.init_process_group(
                _BACKENDS[device],
                store=store,
                rank=seat.rank,
                world_size=seat.size,
                timeout=timedelta(seconds=seat.timeout_s),
            )
        except (dist.DistStoreError, dist.DistNetworkError) as error:
            raise DeadlineError(
                f"learner rank {seat.rank} did not meet the other {seat.size - 1} at {seat.host}:{seat.port} within "
                f"{seat.setup_timeout_s:g} s: {str(error).strip().splitlines()[0]}"
            ) from error
        self.rank = seat.rank
        self.size = seat.size
        self.mesh = dist.init_device_mesh(device, (seat.size,))
        """All ranks in one row."""

    def everyone(self, value: Any) -> list[Any]:
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = self._gather(torch.tensor([own.numel()]))
        padded = torch.zeros(max(int(length) for length in lengths), dtype=torch.uint8)
        padded[: own.numel()] = own
        texts = zip(self._gather(padded), lengths, strict=True)
        return [json.loads(bytes(text[: int(length)].numpy())) for text, length in texts]

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def close(self) -> None:
        with contextlib.suppress(RuntimeError, ValueError):  # the others may be gone
            dist.destroy_process_group()

    def _gather(self, own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own, device=_CONTROL) for _ in range(self.size)]
        try:
            dist.all_gather(parts, own)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise EngineError(f"learner rank {self.rank} lost the others: {reason}") from error
        return parts


def _loopback() -> str:
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
