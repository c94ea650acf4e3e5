"""The engine's process of benchmarks/publication.py: holds weights, and loads others from shared memory.

Started as `publication_engine.py DESCRIPTOR SIZE_GB NUM_TENSORS`; orders come through the pipe of that file
descriptor, and its end ends the process.
"""

import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch
from ray import cloudpickle

from gkd_dist.weights.shared_memory import map_bucket
from gkd_dist.weights.tensors import read_tensors

cloudpickle.register_pickle_by_value(sys.modules[__name__])

WIDTH, VOCABULARY = 1024, 32_000
GB = 10**9
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Model:
    """What is published."""

    size_gb: float
    """As it is sent, in bfloat16."""
    num_tensors: int = 0
    """Of equal size; 0: an embedding, and layers of nine tensors, as a Llama has them."""

    @property
    def name(self) -> str:
        return f"{self.size_gb:g} GB" + (f" in {self.num_tensors} tensors" if self.num_tensors else "")

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.weights(meta=True).values())

    def weights(self, dtype: torch.dtype = torch.bfloat16, *, meta: bool = False) -> Weights:
        """Zeros of about `size_gb` in bfloat16, whatever the dtype they are held in."""
        device = "meta" if meta else "cpu"
        shapes = self._equal() if self.num_tensors else self._llama()
        return {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in shapes.items()}

    def _equal(self) -> dict[str, tuple[int, ...]]:
        return {f"{number}": (int(self.size_gb * GB) // 2 // self.num_tensors,) for number in range(self.num_tensors)}

    def _llama(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"embed": (VOCABULARY, WIDTH)}
        layer = {
            **dict.fromkeys(("q", "k", "v", "o"), (WIDTH, WIDTH)),
            **dict.fromkeys(("gate", "up", "down"), (3 * WIDTH, WIDTH)),
            **dict.fromkeys(("norm_1", "norm_2"), (WIDTH,)),
        }
        layer_bytes = 2 * sum(int(np.prod(shape)) for shape in layer.values())
        for number in range(max(1, round((self.size_gb * GB - 2 * VOCABULARY * WIDTH) / layer_bytes))):
            shapes |= {f"{number}.{name}": shape for name, shape in layer.items()}
        return shapes


def main(descriptor: int, model: Model) -> None:
    torch.set_num_threads(1)
    orders, weights = Connection(descriptor), model.weights()
    while True:
        try:
            question = orders.recv()
        except EOFError:
            return
        if question == "range":
            orders.send(value_range(weights))
            continue
        buckets, entries = question
        for name, tensor in read_tensors([map_bucket(bucket) for bucket in buckets], entries):
            weights[name].copy_(tensor)
        orders.send(True)


def value_range(weights: Weights) -> tuple[float, float]:
    """Least and most over all elements: equal where no two versions are mixed."""
    ranges = [tensor.aminmax() for tensor in weights.values()]
    return min(float(each.min) for each in ranges), max(float(each.max) for each in ranges)


if __name__ == "__main__":
    main(int(sys.argv[1]), Model(float(sys.argv[2]), int(sys.argv[3])))
