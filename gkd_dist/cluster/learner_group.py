"""Several learner ranks as one learner: all of them or none."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from gkd_dist.cluster.shares import shares
from gkd_dist.errors import LearnerLostError, plain
from gkd_dist.interfaces import Learner, Placed
from gkd_dist.types import DivergenceReport, StepReport, TrainBatch, WeightPublication

logger = logging.getLogger(__name__)

T = TypeVar("T")

GRACE_S = 5.0
"""A rank that refuses has told the others before: they answer within this time, or wait for it in vain."""


class Rank(Learner, Protocol):
    """A learner that works with others."""

    async def fetch(self, batch: TrainBatch) -> None:
        """Make sure that the targets of `batch` are at hand; changes nothing.

        Raises:
            LostTargetsError: they are gone.
        """
        ...


class LearnerGroup:
    """Implements `interfaces.Learner` over ranks, in the order of ranks.

    Ranks compute together: when one is lost, or answers otherwise than the others, all are ended.

    Args:
        end: ends every rank, whatever its state.
    """

    def __init__(self, ranks: Sequence[Rank], end: Callable[[], None], *, grace_s: float = GRACE_S) -> None:
        self._ranks = list(ranks)
        self._end = end
        self._grace_s = grace_s
        self._lost: str | None = None

    @property
    def places(self) -> list[Mapping[str, str | int]]:
        """Implements `interfaces.Placed`."""
        return [place for rank in self._ranks if isinstance(rank, Placed) for place in rank.places]

    async def train(self, batch: TrainBatch) -> StepReport:
        parts = await self._fetched(batch)
        reports = await self._all(lambda rank: rank.train(next(parts)), "train", changes=True)
        self._same([report.policy_version for report in reports], "train")
        slowest = {name: max(report.seconds.get(name, 0.0) for report in reports) for name in reports[0].seconds}
        return replace(reports[0], seconds=slowest)

    async def evaluate(self, batch: TrainBatch) -> DivergenceReport:
        parts = await self._fetched(batch)
        return (await self._all(lambda rank: rank.evaluate(next(parts)), "evaluate"))[0]

    async def publish(self) -> WeightPublication:
        return (await self._all(lambda rank: rank.publish(), "publish"))[0]

    async def save(self, path: Path) -> None:
        await self._all(lambda rank: rank.save(path), f"save to {path}")

    async def snapshot(self) -> int:
        return self._same(await self._all(lambda rank: rank.snapshot(), "keep a snapshot"), "keep a snapshot")

    async def write_snapshot(self, folder: Path) -> None:
        """As `Learner.write_snapshot`."""
        await self._each(lambda rank: rank.write_snapshot(folder))

    async def restore(self, folder: Path) -> int:
        versions = await self._all(lambda rank: rank.restore(folder), "restore", changes=True)
        return self._same(versions, "restore")

    async def close(self) -> None:
        """Close every rank; the first error is raised, the others are logged."""
        results = await asyncio.gather(*(rank.close() for rank in self._ranks), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        for error in errors[1:]:
            logger.warning("closing a learner rank failed too: %s", plain(error))
        if errors and self._lost is None:
            raise errors[0]

    def end(self) -> None:
        """End every rank, whatever its state."""
        self._end()

    async def _all(self, call: Callable[[Rank], Awaitable[T]], what: str, *, changes: bool = False) -> list[T]:
        """What every rank returns, in their order.

        Args:
            changes: ranks are of different states when some have done it and others not.

        Raises:
            LearnerLostError: a rank died, was silent, or failed otherwise than the others; all have been ended.
            GkdError: what all ranks raised, or a single one in a call that changes nothing.
        """
        if self._lost is not None:
            raise LearnerLostError(self._lost)
        waiting = [asyncio.ensure_future(call(rank)) for rank in self._ranks]
        try:
            _, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
            if pending:
                await asyncio.wait(pending, timeout=self._grace_s)
        finally:
            silent = [rank for rank, answer in enumerate(waiting) if not answer.done()]
            for answer in waiting:
                answer.cancel()
        if silent:
            await asyncio.gather(*waiting, return_exceptions=True)
        failures = [fault for each in waiting if not each.cancelled() and (fault := each.exception()) is not None]
        if not failures and not silent:
            return [answer.result() for answer in waiting]
        texts = {f"{type(failure).__name__}: {failure}" for failure in failures}
        dead = any(isinstance(failure, LearnerLostError) for failure in failures)
        together = len(failures) == len(waiting) or not changes
        if silent or dead or len(texts) > 1 or not together:
            raise self._lose(what, sorted(texts), silent)
        raise failures[0]

    async def _fetched(self, batch: TrainBatch) -> Iterator[TrainBatch]:
        """The share of each rank. All have their targets before any begins: it would wait for the others in vain.

        Raises:
            LostTargetsError: some are gone.
        """
        parts = shares(batch, len(self._ranks))
        waiting = iter(parts)
        await self._each(lambda rank: rank.fetch(next(waiting)))
        return iter(parts)

    async def _each(self, call: Callable[[Rank], Awaitable[None]]) -> None:
        """What every rank does alone and not with the others: one that fails costs them nothing.

        Raises:
            LearnerLostError: a rank is lost.
            Exception: of the first rank that failed otherwise, once all have ended.
        """
        if self._lost is not None:
            raise LearnerLostError(self._lost)
        results = await asyncio.gather(*(call(rank) for rank in self._ranks), return_exceptions=True)
        failures = [result for result in results if result is not None]
        if failures:
            raise next((each for each in failures if isinstance(each, LearnerLostError)), failures[0])

    def _same(self, versions: list[int], what: str) -> int:
        if len(set(versions)) > 1:
            raise self._lose(what, [f"their policy versions are {versions}"], [])
        return versions[0]

    def _lose(self, what: str, reasons: list[str], silent: list[int]) -> LearnerLostError:
        waited = [f"rank {', '.join(map(str, silent))} waited for the others"] if silent else []
        self._lost = f"the {len(self._ranks)} learner ranks could not {what} together: {'; '.join([*reasons, *waited])}"
        self._end()
        return LearnerLostError(self._lost)
