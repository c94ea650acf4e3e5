"""What has to be closed, whatever else happens (floor F0)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from gkd_dist.errors import plain

logger = logging.getLogger(__name__)


class Closable(Protocol):
    """What holds a process, a port or a file until it is told to let go."""

    async def close(self) -> None: ...


Part = TypeVar("Part", bound=Closable)


class Closing(Generic[Part]):
    """Closes a part at the end of a block. An error of the block is never hidden by one of closing: that is logged.

    async with Closing(fleet):
        await work(fleet)
    """

    def __init__(self, part: Part) -> None:
        self._part = part

    async def __aenter__(self) -> Part:
        return self._part

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._part.close()
        except Exception as closing:
            if error is None:
                raise
            logger.warning("closing after a failure failed too: %s", plain(closing))


class ClosableAtOnce(Protocol):
    """As `Closable`, where nothing has to be awaited: a file, a server of this process."""

    def close(self) -> None: ...


Held = TypeVar("Held", bound=ClosableAtOnce)


@contextmanager
def closing(held: Held) -> Iterator[Held]:
    """As `contextlib.closing`, with the rule of `Closing`."""
    try:
        yield held
    except BaseException:
        try:
            held.close()
        except Exception as error:
            logger.warning("closing after a failure failed too: %s", plain(error))
        raise
    held.close()
