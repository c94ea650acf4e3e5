"""Weight updates of an engine that is sampling: pause, swap, resume, always to the end."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Literal, Protocol

import numpy as np

from gkd_dist.errors import WeightsError
from gkd_dist.types import ByteArray, WeightManifest, WeightPublication
from gkd_dist.weights.manifest import verify
from gkd_dist.weights.shared_memory import SharedSegment, map_bucket
from gkd_dist.weights.subscription import Subscription

Swap = Callable[[WeightManifest, SharedSegment], Awaitable[None]]
Pause = Callable[[], Awaitable[None]]


class PausableEngine(Protocol):
    """What an update needs of `AsyncLLM`."""

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None: ...  # here: of a failed update, `abort`

    async def reset_prefix_cache(self, reset_running_requests: bool) -> bool: ...

    async def update_weight_version(self, new_version: str) -> None: ...

    async def resume_generation(self) -> None: ...


class WeightUpdates:
    """Runs updates one after the other; requests in flight wait meanwhile and are kept.

    Args:
        engine: what is updated.
        pause: stops it between two tokens; requests stay.
        subscription: says what may be loaded, and learns what was.
        swap: makes the paused engine load a segment.
        kv_cache: of requests in flight: `keep` leaves them the keys and values of the former weights; `recompute`
            frees these, so that each request is read anew from its first token before it goes on.
    """

    def __init__(
        self,
        engine: PausableEngine,
        pause: Pause,
        subscription: Subscription,
        swap: Swap,
        kv_cache: Literal["keep", "recompute"],
    ) -> None:
        self._engine = engine
        self._pause = pause
        self._subscription = subscription
        self._swap = swap
        self._kv_cache = kv_cache
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self.weights_lost = False
        """A swap failed half way: the engine must not sample until the next one succeeds."""
        self.copied_bytes = 0
        """By all updates, for the engine to map; 0 where it always found the bytes of Ray's object store."""
        self._spent: Counter[str] = Counter()

    def time_spent(self) -> Mapping[str, float]:
        """See `interfaces.Timed`: `load_copy`, `load_verify`, `load_paused`."""
        spent, self._spent = self._spent, Counter()
        return spent

    @contextlib.contextmanager
    def _spending(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[part] += time.perf_counter() - began

    async def run(self, publication: WeightPublication) -> None:
        """Load `publication`. A cancelled call leaves its update running: a paused engine would hang everybody.

        Raises:
            WeightsError: refused, and the former weights stay; or the swap failed, and `weights_lost` says so.
        """
        task = asyncio.create_task(self._update(publication))
        self._running.add(task)
        task.add_done_callback(self._forget)
        await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # nobody else may be left to look at it

    async def _update(self, publication: WeightPublication) -> None:
        manifest = publication.manifest
        buckets: list[ByteArray] = [np.asarray(bucket, dtype=np.uint8) for bucket in publication.buckets]
        async with self._lock:
            self._subscription.check(manifest)
            with SharedSegment() as segment:
                with self._spending("load_copy"):
                    await asyncio.to_thread(segment.write, buckets)
                self.copied_bytes += segment.copied_bytes
                with self._spending("load_verify"):  # what the engine is going to map, wherever it lies
                    await asyncio.to_thread(_verify_shared, manifest, segment)
                with self._spending("load_paused"):
                    await self._swap_paused(manifest, segment)

    async def _swap_paused(self, manifest: WeightManifest, segment: SharedSegment) -> None:
        engine = self._engine
        try:
            await self._pause()
            await self._swap(manifest, segment)
            if self._kv_cache == "recompute":
                await engine.reset_prefix_cache(reset_running_requests=True)
            # Before it goes on: the engine labels each token with the version that wrote it.
            await engine.update_weight_version(str(manifest.version))
            self._subscription.accept(manifest)
            await engine.resume_generation()
        except BaseException as error:
            self.weights_lost = True
            with contextlib.suppress(Exception):
                await self._engine.pause_generation(mode="abort", clear_cache=True)
            if isinstance(error, Exception):
                raise WeightsError(f"loading version {manifest.version} failed: {error}") from error
            raise
        self.weights_lost = False


async def in_order(*calls: Awaitable[object]) -> None:
    """Give an engine several orders at once: it takes them in their order, and nobody waits for the answers between.

    Raises:
        Exception: of the first that failed. Those after it were given all the same, and may still be under way.
    """
    await asyncio.gather(*calls)


def _verify_shared(manifest: WeightManifest, segment: SharedSegment) -> None:
    verify(manifest, [map_bucket(bucket) for bucket in segment.buckets])
