"""How new weights come from the learner to the samplers."""

import asyncio
from collections import Counter
from typing import Protocol

from gkd_dist.simulation.scenario import WeightRates
from gkd_dist.simulation.shared import Shared


class Route(Protocol):
    async def read(self, version: int) -> None:
        """Return when one more node has all of `version`."""
        ...


class FromLearner:
    """Every node reads from the learner; those that read at once share its link."""

    def __init__(self, rates: WeightRates) -> None:
        self._num_bytes = rates.num_bytes
        self._link = Shared(lambda number: min(rates.node_bytes_per_s, rates.learner_bytes_per_s / number))

    async def read(self, version: int) -> None:  # noqa: ARG002 - of the Protocol
        await self._link.join()
        await self._link.flow(self._num_bytes)


class Tree:
    """Each node sends to `fan_out` others at once, piece by piece; they take their places in the order in which they
    ask. A hop takes `fan_out` times the bytes over the link; behind the first one each adds the time of a piece.
    Nobody waits for the node above: one that is dead holds up none below it.
    """

    def __init__(self, rates: WeightRates) -> None:
        self._rates = rates
        self._num_asked: Counter[int] = Counter()

    async def read(self, version: int) -> None:
        self._num_asked[version] += 1
        await asyncio.sleep(self._rates.spread_s(self._num_asked[version]))


class Distribution:
    """A node reads each version once, for the first of its samplers that asks; the others wait for it, or find it
    there. Who dies meanwhile stops nothing: the version comes for the others."""

    def __init__(self, rates: WeightRates) -> None:
        self._route: Route = Tree(rates) if rates.fan_out else FromLearner(rates)
        self._samplers_per_node = rates.samplers_per_node
        self._reads: dict[int, tuple[int, asyncio.Task[None]]] = {}
        """The newest of each node, and its version."""

    async def receive(self, version: int, sampler: int) -> None:
        """Return when the node of a sampler has all of `version`.

        Args:
            sampler: its number among all; nodes are filled in this order.
        """
        node = sampler // self._samplers_per_node
        held, read = self._reads.get(node, (None, None))
        if read is None or held != version:
            read = asyncio.create_task(self._route.read(version), name=f"node {node} reads version {version}")
            self._reads[node] = version, read
        await asyncio.shield(read)
