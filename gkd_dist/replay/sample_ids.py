"""A compact set of sample ids (floor F2).

Ids come in stream order, nearly: per repeat index the set holds sorted, disjoint ranges of prompt indices, so its
size grows with the number of gaps and not with the length of the run.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

from gkd_dist.types import SampleId

Ranges = list[tuple[int, int]]
"""Disjoint half-open ranges of prompt indices, ascending."""


class SampleIdSet:
    """Ids of one run.

    Args:
        ranges: per repeat index, as `ranges()` gives them (from a checkpoint).

    Raises:
        ValueError: ranges that are empty, overlap or are out of order.
    """

    def __init__(self, ranges: dict[int, Ranges] | None = None) -> None:
        self._starts: dict[int, list[int]] = {}
        self._ends: dict[int, list[int]] = {}
        for repeat_index, pairs in (ranges or {}).items():
            bounds = [bound for pair in pairs for bound in pair]
            if any(low >= high for low, high in pairwise(bounds)):
                raise ValueError(f"ranges of repeat index {repeat_index} must ascend without touching, got {pairs}")
            self._starts[repeat_index] = [start for start, _ in pairs]
            self._ends[repeat_index] = [end for _, end in pairs]

    def __contains__(self, sample_id: object) -> bool:
        if not isinstance(sample_id, SampleId):
            return False
        starts, ends = self._starts.get(sample_id.repeat_index, []), self._ends.get(sample_id.repeat_index, [])
        place = bisect_right(starts, sample_id.prompt_index) - 1
        return place >= 0 and sample_id.prompt_index < ends[place]

    def __len__(self) -> int:
        return sum(end - start for pairs in self.ranges().values() for start, end in pairs)

    def add(self, sample_id: SampleId) -> None:
        """Add an id; adding it again changes nothing."""
        if sample_id in self:
            return
        starts = self._starts.setdefault(sample_id.repeat_index, [])
        ends = self._ends.setdefault(sample_id.repeat_index, [])
        index = sample_id.prompt_index
        place = bisect_right(starts, index)
        joins_left = place > 0 and ends[place - 1] == index
        joins_right = place < len(starts) and starts[place] == index + 1
        if joins_left and joins_right:
            del starts[place]
            del ends[place - 1]
        elif joins_left:
            ends[place - 1] = index + 1
        elif joins_right:
            starts[place] = index
        else:
            starts.insert(place, index)
            ends.insert(place, index + 1)

    def update(self, sample_ids: Iterable[SampleId]) -> None:
        for sample_id in sample_ids:
            self.add(sample_id)

    def union(self, other: "SampleIdSet") -> "SampleIdSet":
        """The ids of both, as a set of its own."""
        both = SampleIdSet(self.ranges())
        both.update(other.ids(""))
        return both

    def ids(self, run: str) -> Iterator[SampleId]:
        """One by one, under the name of the run."""
        for repeat, ranges in self.ranges().items():
            for start, end in ranges:
                yield from (SampleId(run, index, repeat) for index in range(start, end))

    def ranges(self) -> dict[int, Ranges]:
        """A copy, for a checkpoint: repeat index -> [(start, end), ...]."""
        return {
            repeat_index: list(zip(starts, self._ends[repeat_index], strict=True))
            for repeat_index, starts in sorted(self._starts.items())
        }
