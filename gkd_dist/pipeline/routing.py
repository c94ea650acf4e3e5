"""Who gets which work: teachers by sample, replicas by load or by equal shares."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from gkd_dist.interfaces import Replicas
from gkd_dist.types import SampleId

TeachersOf = Callable[[SampleId], Collection[str]]
"""Names of the teachers that score a sample, at least one; a pure function."""

Replica = TypeVar("Replica")
Item = TypeVar("Item")
Result = TypeVar("Result")


async def ask(
    replicas: Replicas[Replica],
    items: Sequence[Item],
    work: Callable[[Replica, Sequence[Item]], Awaitable[list[Result]]],
    *,
    whole_steps: bool,
) -> list[Result]:
    """Results of `work` in the order of `items`.

    Args:
        whole_steps: `items` are all there is to do, in equal shares for all replicas; else one request among many, for
            the replica with the least to do.
    """
    if whole_steps:
        return await replicas.spread(items, work)
    return await replicas.call(lambda replica: work(replica, items), "take a request")
