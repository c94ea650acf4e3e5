"""The journal as an actor on the driver's machine: targets reach it by reference and never pass the driver."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Container, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gkd_dist.cluster.headers import ScoredHeader, framed, payload_of
from gkd_dist.cluster.proxies import Proxy, give_up
from gkd_dist.cluster.whereabouts import Whereabouts
from gkd_dist.errors import DeadlineError, EngineError, GkdError, LostTargetsError
from gkd_dist.process import end_with_parent
from gkd_dist.replay.journal import Journal
from gkd_dist.serial import SerialThread
from gkd_dist.types import ByteArray, Kept, SampleId, ScoredTrajectory

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_RESTARTS = 3
_RECORDS_PER_FRAME = 16
"""Read from disk at a time: one object of the store each."""
_SIGN_OF_LIFE_S = 1.0
"""What goes through whole files says after so long that it is still at it: its deadline is that of the next word."""


class JournalActor:
    """The files in their own process; one call at a time. One that its caller gives up, and Ray cancels, still comes to
    its end before the next begins: hence a thread for all of them."""

    def __init__(self, folder: Path) -> None:
        end_with_parent()
        self._journal = Journal(folder)
        self._turn = asyncio.Lock()
        self._thread = SerialThread("journal")
        self._time_line = 0

    async def locate(self) -> Whereabouts:
        return Whereabouts.here()

    @ray.method(num_returns="streaming")
    async def read(self, finished: Container[SampleId]) -> AsyncIterator[Any]:
        """None is a sign of life. For every few trajectories a header, with the bytes of each score, and then their
        targets as one frame; at the end what was lost (`Kept.lost`). All of them belong to the caller: they outlive
        this actor."""
        async with self._turn:
            survey = self._journal.survey(finished)
            while await self._thread.run(lambda: _goes_on(survey)):
                yield None
            items = self._journal.surveyed()
            while scored := await self._thread.run(lambda: list(islice(items, _RECORDS_PER_FRAME))):
                header, num_bytes, frame = framed(scored)
                yield header, num_bytes
                yield frame
            yield {file: dict(reasons) for file, reasons in self._journal.lost.items()}

    async def append(self, time_line: int, header: ScoredHeader, *frames: ByteArray) -> None:
        """What was sent before the last `keep_only` is dropped: a call whose frames come late is overtaken."""
        async with self._turn:
            if time_line == self._time_line:
                await self._thread.run(lambda: self._journal.append(header.with_targets(frames)))

    async def sync(self) -> None:
        async with self._turn:
            await self._thread.run(self._journal.sync)

    async def forget(self, finished: Container[SampleId]) -> None:
        async with self._turn:
            await self._thread.run(lambda: self._journal.forget(finished))

    @ray.method(num_returns="streaming")
    async def keep_only(self, time_line: int, wanted: Collection[SampleId]) -> AsyncIterator[Any]:
        """None is a sign of life; at the end True."""
        self._time_line = time_line
        async with self._turn:
            rewrite = self._journal.rewrite(wanted)
            while await self._thread.run(lambda: _goes_on(rewrite)):
                yield None
        yield True

    async def close(self) -> None:
        async with self._turn:
            await self._thread.run(self._journal.close)


def _goes_on(work: Iterator[object]) -> bool:
    """Works for a little while; returns whether there is more to do."""
    until = time.monotonic() + _SIGN_OF_LIFE_S
    return any(time.monotonic() >= until for _ in work)


class JournalDiedError(EngineError):
    """The process that writes the journal is gone."""


class JournalProxy(Proxy):
    """Implements `interfaces.Journal`; trajectories come and go with handles."""

    died = JournalDiedError

    _time_line = 0
    """Calls of `keep_only` so far."""

    async def read(
        self, finished: Container[SampleId] = frozenset(), progressed: Callable[[], object] = lambda: None
    ) -> Kept:
        stream = self._actor.read.remote(finished)
        found: list[ScoredTrajectory] = []
        while True:
            said, frame = await self._next(stream, "go on to read its files")
            progressed()
            if isinstance(said, dict):
                return Kept(found, said)
            if said is not None:
                header, num_bytes = said
                found += header.with_handles([frame], num_bytes)

    async def append(self, scored: Sequence[ScoredTrajectory]) -> None:
        places, frames = payload_of(scored)
        call = self._actor.append.remote(self._time_line, ScoredHeader(scored, places), *frames)
        await self._await(call, "append", lost=LostTargetsError)

    async def sync(self) -> None:
        await self._await(self._actor.sync.remote(), "write to the disk")

    async def forget(self, finished: Container[SampleId]) -> None:
        await self._await(self._actor.forget.remote(finished), "forget")

    async def keep_only(self, wanted: Collection[SampleId], progressed: Callable[[], object] = lambda: None) -> None:
        self._time_line += 1
        stream = self._actor.keep_only.remote(self._time_line, wanted)
        while not (await self._next(stream, "go on to rewrite its files"))[0]:
            progressed()

    async def _next(self, stream: Any, what: str) -> tuple[Any, Any]:
        """What is said next, with a reference to the frame that belongs to it; within the deadline."""
        try:
            part = await self._await(_part(stream), what)
        except (DeadlineError, asyncio.CancelledError):
            give_up(stream)
            raise
        if part is None:
            raise EngineError(f"{self._name} stopped in the middle of its files")
        return part


async def _part(stream: Any) -> tuple[Any, Any] | None:
    """None is the end of the stream. A header alone has a frame."""
    reference = await anext(stream, None)
    if reference is None:
        return None
    said = await reference
    return said, await anext(stream) if isinstance(said, tuple) else None


class LastingJournal:
    """Implements `interfaces.Journal` with one process after the other: where one dies, or is silent for as long as a
    call may take, it is ended and another goes on in its folder.

    The call that failed is made again, once. All of them may be done twice: what the lost process has written of an
    append and the next one writes again is the same attempt at the same sample, of which a reading gives one.

    Args:
        start: another process on the same folder.
    """

    def __init__(self, first: JournalProxy, start: Callable[[], Awaitable[JournalProxy]]) -> None:
        self._proxy = first
        self._start = start
        self._num_restarts = 0
        self._turn = asyncio.Lock()
        self._time_line = 0
        """Calls of `keep_only` so far."""

    @property
    def places(self) -> list[dict[str, str | int]]:
        """Implements `interfaces.Placed`."""
        return self._proxy.places

    async def read(
        self, finished: Container[SampleId] = frozenset(), progressed: Callable[[], object] = lambda: None
    ) -> Kept:
        return await self._ask(lambda proxy: proxy.read(finished, progressed))

    async def append(self, scored: Sequence[ScoredTrajectory]) -> None:
        time_line = self._time_line

        async def work(proxy: JournalProxy) -> None:
            if time_line == self._time_line:  # else it was to go, before it could be asked again
                await proxy.append(scored)

        await self._ask(work)

    async def sync(self) -> None:
        await self._ask(lambda proxy: proxy.sync())

    async def forget(self, finished: Container[SampleId]) -> None:
        await self._ask(lambda proxy: proxy.forget(finished))

    async def keep_only(self, wanted: Collection[SampleId], progressed: Callable[[], object] = lambda: None) -> None:
        self._time_line += 1
        await self._ask(lambda proxy: proxy.keep_only(wanted, progressed))

    async def close(self) -> None:
        await self._proxy.close()

    async def _ask(self, work: Callable[[JournalProxy], Awaitable[T]]) -> T:
        """Once more where the process was lost meanwhile."""
        proxy = self._proxy
        try:
            return await work(proxy)
        except (JournalDiedError, DeadlineError) as error:
            await self._renew(proxy, error)
        return await work(self._proxy)

    async def _renew(self, lost: JournalProxy, error: GkdError) -> None:
        """Another process in the place of `lost`, unless there is one already.

        Raises:
            JournalDiedError: too many were lost.
        """
        async with self._turn:
            if self._proxy is not lost:
                return
            if self._num_restarts == _MAX_RESTARTS:
                raise JournalDiedError(
                    f"the journal died or was silent {_MAX_RESTARTS + 1} times; look at Ray's logs"
                ) from error
            self._num_restarts += 1
            lost.kill()
            self._proxy = await self._start()
            why = "the journal died" if isinstance(error, JournalDiedError) else str(error)
            logger.warning("%s; another one goes on (%d of %d)", why, self._num_restarts, _MAX_RESTARTS)


async def lasting_journal(folder: Path, timeout_s: float) -> LastingJournal:
    """As `start_journal`, of a journal that is started again where it dies or is silent."""
    start = partial(start_journal, folder, timeout_s)
    return LastingJournal(await start(), start)


async def start_journal(folder: Path, timeout_s: float) -> JournalProxy:
    """The journal in `folder`, on the node that this process is on; the folder is made with the first record.

    Args:
        timeout_s: of every call, the start included; of one that goes through the files, of each of its signs of life.

    Raises:
        EngineError, DeadlineError: it does not start.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {
        "num_cpus": 0,
        "max_restarts": 0,
        "scheduling_strategy": here,
    }  # Ray's types lack the last
    actor: Any = ray.remote(**options)(JournalActor).remote(folder)
    proxy = JournalProxy(actor, "journal", timeout_s)
    try:
        proxy.place = await proxy._await(proxy._actor.locate.remote(), "start")
    except BaseException:
        proxy.kill()
        raise
    return proxy
