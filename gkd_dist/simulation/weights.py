"""How new weights come from the learner to the samplers."""

import asyncio
import math
from collections import Counter
from typing import Protocol

from gkd_dist.simulation.scenario import WeightRates
from gkd_dist.simulation.shared import Shared


class Distribution(Protocol):
    async def receive(self, version: int) -> None:
        """Return when one more sampler has all of `version`."""
        ...


class FromLearner:
    """Every sampler reads from the learner; those that read at once share its link."""

    def __init__(self, rates: WeightRates) -> None:
        self._num_bytes = rates.num_bytes
        self._link = Shared(lambda number: min(rates.replica_bytes_per_s, rates.learner_bytes_per_s / number))

    async def receive(self, version: int) -> None:  # noqa: ARG002 - of the Protocol
        await self._link.join()
        await self._link.flow(self._num_bytes)


class Tree:
    """Each node sends to `fan_out` others at once, piece by piece; samplers take their places in the order in which
    they ask. A hop takes `fan_out` times the bytes over the link; behind the first one each adds the time of a piece.
    """

    def __init__(self, rates: WeightRates) -> None:
        self._rates = rates
        self._num_asked: Counter[int] = Counter()

    async def receive(self, version: int) -> None:
        depth = depth_of(self._num_asked[version], self._rates.fan_out)
        self._num_asked[version] += 1
        await asyncio.sleep(self._hop_s * (1 + (depth - 1) / self._rates.num_pieces))

    @property
    def _hop_s(self) -> float:
        rates = self._rates
        slowest = min(rates.replica_bytes_per_s, rates.learner_bytes_per_s)
        return rates.fan_out * rates.num_bytes / slowest


def depth_of(place: int, fan_out: int) -> int:
    """Hops from the root to the node at `place`, counted from 0 without the root, of a tree that is filled level by
    level."""
    if fan_out == 1:
        return place + 1
    return math.ceil(math.log((place + 1) * (fan_out - 1) / fan_out + 1, fan_out) - 1e-9)


def make_distribution(rates: WeightRates) -> Distribution:
    return Tree(rates) if rates.fan_out else FromLearner(rates)
