"""Updates of a running engine end, whatever happens to their caller."""

import asyncio
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from gkd_dist.errors import WeightsError
from gkd_dist.samplers.weight_updates import WeightUpdates, in_order
from gkd_dist.types import WeightManifest, WeightPublication
from gkd_dist.weights.publisher import WeightPublisher
from gkd_dist.weights.shared_memory import SharedSegment
from gkd_dist.weights.subscription import Subscription


class Engine:
    """Notes what it is told; a swap waits for `go`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.go = asyncio.Event()
        self.swapping = asyncio.Event()
        self.error: Exception | None = None
        self.resume_error: Exception | None = None

    async def pause(self) -> None:
        self.calls.append("pause keep")

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None:
        self.calls.append(f"pause {mode}")

    async def reset_prefix_cache(self, reset_running_requests: bool) -> bool:
        self.calls.append(f"reset running={reset_running_requests}")
        return True

    async def update_weight_version(self, new_version: str) -> None:
        self.calls.append(f"label {new_version}")

    async def resume_generation(self) -> None:
        self.calls.append("resume")
        if self.resume_error:
            raise self.resume_error

    async def swap(self, manifest: WeightManifest, segment: SharedSegment) -> None:
        self.swapping.set()
        await self.go.wait()
        assert all(Path(bucket.path).exists() for bucket in segment.buckets)
        if self.error:
            raise self.error
        self.calls.append(f"swap {manifest.version}")


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shared memory of our own."""
    monkeypatch.setattr("gkd_dist.weights.shared_memory._SHM", tmp_path)
    return tmp_path


def updates(engine: Engine, kv_cache: Literal["keep", "recompute"] = "keep") -> tuple[WeightUpdates, Subscription]:
    subscription = Subscription({"weight": (3,)}, 0)
    return WeightUpdates(engine, engine.pause, subscription, engine.swap, kv_cache), subscription


def publication(version: int) -> WeightPublication:
    return WeightPublisher("epoch", 64, "float32").publish([("weight", torch.ones(3))], version)


def test_a_cancelled_update_resumes_the_engine_and_leaves_nothing_behind(base: Path) -> None:
    async def scenario() -> None:
        engine = Engine()
        running, subscription = updates(engine)
        call = asyncio.create_task(running.run(publication(1)))
        await engine.swapping.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        following = asyncio.create_task(running.run(publication(2)))
        await asyncio.sleep(0)
        engine.go.set()
        await following
        assert engine.calls == [
            *("pause keep", "swap 1", "label 1", "resume"),
            *("pause keep", "swap 2", "label 2", "resume"),
        ]
        assert subscription.version == 2
        assert not running.weights_lost

    asyncio.run(scenario())
    assert list(base.iterdir()) == []


def test_recomputing_frees_the_former_keys_after_the_swap_and_before_the_next_token() -> None:
    async def scenario() -> None:
        engine = Engine()
        engine.go.set()
        running, _ = updates(engine, "recompute")
        await running.run(publication(1))
        assert engine.calls == ["pause keep", "swap 1", "reset running=True", "label 1", "resume"]

    asyncio.run(scenario())


def test_a_failed_update_aborts_what_is_in_the_engine() -> None:
    async def scenario() -> None:
        engine = Engine()
        engine.go.set()
        engine.error = RuntimeError("no room")
        running, _ = updates(engine)
        with pytest.raises(WeightsError):
            await running.run(publication(1))
        assert engine.calls == ["pause keep", "pause abort"]

    asyncio.run(scenario())


def test_an_engine_that_cannot_be_resumed_has_lost_its_weights() -> None:
    async def scenario() -> None:
        engine = Engine()
        engine.go.set()
        engine.resume_error = RuntimeError("it died")
        running, _ = updates(engine)
        with pytest.raises(WeightsError, match="loading version 1 failed: it died"):
            await running.run(publication(1))
        assert engine.calls == ["pause keep", "swap 1", "label 1", "resume", "pause abort"]
        assert running.weights_lost

    asyncio.run(scenario())


def test_orders_are_given_at_once_in_their_order_and_the_first_failure_is_told() -> None:
    async def scenario() -> None:
        given: list[str] = []
        answers = {name: asyncio.get_running_loop().create_future() for name in ("start", "update", "finish")}

        async def order(name: str) -> None:
            given.append(name)
            await answers[name]

        call = asyncio.create_task(in_order(*map(order, answers)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert given == ["start", "update", "finish"]
        answers["start"].set_result(None)
        answers["update"].set_exception(RuntimeError("unknown name"))
        answers["finish"].set_exception(RuntimeError("never started"))
        with pytest.raises(RuntimeError, match="unknown name"):
            await call

    asyncio.run(scenario())


def test_an_update_cancelled_while_it_writes_leaves_no_segment(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()
    write = SharedSegment.write

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def slow(self: SharedSegment, buckets: list[np.ndarray]) -> None:
            loop.call_soon_threadsafe(begun.set)
            write(self, buckets)

        monkeypatch.setattr(SharedSegment, "write", slow)
        engine = Engine()
        engine.go.set()
        running, _ = updates(engine)
        call = asyncio.create_task(running.run(publication(1)))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(scenario())  # cancels the update itself at its end
    assert list(base.iterdir()) == []


def test_a_failed_swap_aborts_and_says_that_the_weights_are_lost_until_the_next(base: Path) -> None:
    async def scenario() -> None:
        engine = Engine()
        engine.go.set()
        engine.error = RuntimeError("no room")
        running, subscription = updates(engine)
        with pytest.raises(WeightsError, match="loading version 1 failed: no room"):
            await running.run(publication(1))
        assert engine.calls == ["pause keep", "pause abort"]
        assert running.weights_lost
        assert subscription.version == 0
        engine.error = None
        await running.run(publication(1))
        assert not running.weights_lost

    asyncio.run(scenario())
    assert list(base.iterdir()) == []


def test_a_refused_publication_does_not_pause_the_engine() -> None:
    async def scenario() -> None:
        engine = Engine()
        running, _ = updates(engine)
        damaged = publication(1)
        np.asarray(damaged.buckets[0])[0] ^= 1
        foreign = WeightPublisher("epoch", 64, "float32").publish([("weight", torch.ones(4))], 1)
        for refused in (damaged, foreign):
            with pytest.raises(WeightsError):
                await running.run(refused)
        assert engine.calls == []
        assert not running.weights_lost

    asyncio.run(scenario())


def test_what_is_damaged_on_its_way_into_shared_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write = SharedSegment.write

    def spoiled(self: SharedSegment, buckets: list[np.ndarray]) -> None:
        write(self, buckets)
        Path(self.buckets[0].path).write_bytes(bytes(buckets[0].size))

    monkeypatch.setattr(SharedSegment, "write", spoiled)

    async def scenario() -> None:
        engine = Engine()
        running, _ = updates(engine)
        with pytest.raises(WeightsError, match="bucket 0 of version 1 has digest"):
            await running.run(publication(1))
        assert engine.calls == []

    asyncio.run(scenario())
