"""Work side by side, of which the first failure stops the rest."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in the order of `works`.

    Raises:
        Exception: what the first failure raised, itself, once the others were cancelled and have ended; what they
            raised on top is noted on it.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
        return [task.result() for task in tasks]
    except BaseExceptionGroup as failures:
        first, *others = failures.exceptions
    for other in others:
        first.add_note(f"another failed too: {other!r}")
    raise first  # outside the handler: its own cause and context stay as they are
