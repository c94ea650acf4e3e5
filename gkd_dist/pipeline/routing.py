"""Who serves which request: teachers by sample, and the replicas of one role by equal shares."""

import itertools
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar

from gkd_dist.supervision.together import gather_all
from gkd_dist.types import SampleId

TeachersOf = Callable[[SampleId], Collection[str]]
"""Names of the teachers that score a sample, at least one; a pure function."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Replica = TypeVar("Replica")


async def spread(
    replicas: Sequence[Replica],
    items: Sequence[Item],
    call: Callable[[Replica, Sequence[Item]], Coroutine[Any, Any, list[Result]]],
) -> list[Result]:
    """Results of `call` over all items, in the order of the items; every replica gets an equal, contiguous share.

    Which replica serves which item depends on the order alone, so a run repeats for a seed.
    """
    bounds = [round(len(items) * index / len(replicas)) for index in range(len(replicas) + 1)]
    shares = [items[start:stop] for start, stop in itertools.pairwise(bounds)]
    pairs = [(replica, share) for replica, share in zip(replicas, shares, strict=True) if share]
    parts = await gather_all(call(replica, share) for replica, share in pairs)
    return [result for part in parts for result in part]
