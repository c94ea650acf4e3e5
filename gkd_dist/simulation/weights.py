"""How new weights come from the learner to the samplers."""

import asyncio
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
    Nobody waits for the node above: one that is dead holds up none below it.
    """

    def __init__(self, rates: WeightRates) -> None:
        self._rates = rates
        self._num_asked: Counter[int] = Counter()

    async def receive(self, version: int) -> None:
        self._num_asked[version] += 1
        await asyncio.sleep(self._rates.spread_s(self._num_asked[version]))


def make_distribution(rates: WeightRates) -> Distribution:
    return Tree(rates) if rates.fan_out else FromLearner(rates)
