"""Work side by side, of which the first failure stops the rest."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """As asyncio.TaskGroup, but raises the first failure itself: that of the block, where it failed, since what its
    tasks raise while they are cancelled comes after that. What else was raised is noted on it."""
    own: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            try:
                yield group
            except BaseException as error:
                own = error
                raise
        return
    except BaseExceptionGroup as failures:
        raised: Sequence[BaseException] = failures.exceptions
    first: BaseException = own if own is not None and own in raised else raised[0]
    for other in (each for each in raised if each is not first):
        first.add_note(f"another failed too: {other!r}")
    raise first  # outside the handler: its own cause and context stay as they are


async def gather_all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in the order of `works`.

    Raises:
        Exception: what the first failure raised, itself, once the others were cancelled and have ended.
    """
    async with task_group() as group:
        tasks = [group.create_task(work) for work in works]
    return [task.result() for task in tasks]


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Endless work that runs beside the block: its failure ends the block, the block's end cancels it."""
    async with task_group() as group:
        tasks = [group.create_task(work) for work in works]
        yield
        for task in tasks:
            task.cancel()


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when `stop` is set before there is one; the work is cancelled then, and has ended
    when this returns."""
    stopping, working = asyncio.create_task(stop.wait()), asyncio.create_task(work)
    try:
        await asyncio.wait([stopping, working], return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() and not stop.is_set() else None
    finally:
        stopping.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # seen, whoever else sees it
