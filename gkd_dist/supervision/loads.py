"""Who has the least to do, among thousands of replicas."""

import heapq
import itertools
from collections.abc import Callable, Collection, Iterable
from typing import Generic

from gkd_dist.supervision.slots import Incarnation, Replica

_SLACK = 64
"""Entries beyond twice the replicas before outdated ones are cleared away."""


class Loads(Generic[Replica]):
    """Replicas by number of requests: O(log n) for a change and for a choice, where looking at all would be O(n).

    Every change leaves an entry; those that no longer say the truth are skipped when they come up.

    Args:
        may_serve: whether a replica may be chosen now. Tell `changed` when one may that might not before.
        everybody: all that may.
    """

    def __init__(
        self, may_serve: Callable[[Incarnation[Replica]], bool], everybody: Callable[[], Iterable[Incarnation[Replica]]]
    ) -> None:
        self._may_serve = may_serve
        self._everybody = everybody
        self._entries: list[tuple[int, int, int, Incarnation[Replica]]] = []
        self._order = itertools.count()
        self._most_entries = _SLACK

    def __len__(self) -> int:
        """Entries, outdated ones too."""
        return len(self._entries)

    def changed(self, incarnation: Incarnation[Replica]) -> None:
        """It has more or less to do than before, or may be chosen from now on."""
        heapq.heappush(self._entries, self._entry(incarnation))
        if len(self._entries) > self._most_entries:
            self._entries = [self._entry(each) for each in self._everybody()]
            heapq.heapify(self._entries)
            self._most_entries = 2 * len(self._entries) + _SLACK

    def least(self, avoid: Collection[Incarnation[Replica]]) -> Incarnation[Replica] | None:
        """The one with the fewest requests, the lowest slot of several; None where there is nobody else."""
        avoided = []
        try:
            while self._entries:
                number, _, _, incarnation = self._entries[0]
                if number != len(incarnation.requests) or not self._may_serve(incarnation):
                    heapq.heappop(self._entries)
                elif incarnation in avoid:
                    avoided.append(heapq.heappop(self._entries))
                else:
                    return incarnation
            return None
        finally:
            for entry in avoided:
                heapq.heappush(self._entries, entry)

    def _entry(self, incarnation: Incarnation[Replica]) -> tuple[int, int, int, Incarnation[Replica]]:
        return len(incarnation.requests), incarnation.slot.index, next(self._order), incarnation
