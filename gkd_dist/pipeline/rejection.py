"""One bad request among many: the others are served without it."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from gkd_dist.errors import RejectedError, WireError
from gkd_dist.supervision.together import gather_all

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


async def in_part(
    items: Sequence[Item], call: Callable[[Sequence[Item]], Awaitable[list[Result]]]
) -> list[Result | None]:
    """Results of `call` in the order of `items`; None for those that are rejected also when asked about alone.

    Asked about together first. Other errors than rejections are raised.
    """
    try:
        return list(await call(items))
    except (RejectedError, WireError) as error:
        if len(items) == 1:
            logger.warning("left out: %s", error)
            return [None]
        logger.warning("%d requests were rejected together (%s); asking one by one", len(items), error)
    alone = await gather_all(in_part([item], call) for item in items)
    return [result for results in alone for result in results]
