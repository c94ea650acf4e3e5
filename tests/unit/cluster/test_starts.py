"""What the start of an actor tells: what it waits for, and when it is up. No cluster is started."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gkd_dist.cluster import launchers
from gkd_dist.cluster.actors import Shell
from gkd_dist.cluster.launchers import ActorLauncher, Needs
from gkd_dist.cluster.placement import RoleNeeds
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.errors import DeadlineError, ResourceError

CPUS_AND_GPU = Needs(num_cpus=2, num_gpus=1)


class Waiting:
    """A proxy whose actor gets its process when the test says so."""

    def __init__(self) -> None:
        self.place: object | None = None
        self.placed = asyncio.Event()
        self.killed = False

    async def locate(self) -> None:
        await self.placed.wait()
        self.place = object()

    async def build(self) -> None:
        """At once."""

    def kill(self) -> None:
        self.killed = True


def launcher(
    proxy: Waiting, said: list[str], startup_timeout_s: float = 60, needs: Needs = CPUS_AND_GPU
) -> ActorLauncher[Any]:
    return ActorLauncher(
        "sampler {}".format,
        Shell,
        (),
        lambda *_: proxy,  # type: ignore[arg-type,return-value]
        needs=needs,
        environment={},
        startup_timeout_s=startup_timeout_s,
        probe_timeout_s=1,
        say=said.append,
    )


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the cluster has left; the test changes it."""
    free: dict[str, float] = {"CPU": 0.5, "GPU": 3}

    def remote(**_: object) -> Any:
        return lambda _: SimpleNamespace(remote=lambda: None)

    cluster = SimpleNamespace(
        remote=remote, available_resources=lambda: dict(free), cluster_resources=lambda: {"CPU": 8, "GPU": 4}
    )
    monkeypatch.setattr(launchers, "ray", cluster)
    monkeypatch.setattr(launchers, "_LOOK_S", 0.001)
    monkeypatch.setattr(launchers, "_RELEASE_S", 0.05)
    monkeypatch.setattr(launchers, "_RELEASE_LOOK_S", 0.001)
    return free


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_start_says_which_resource_is_missing_and_how_much_is_free(free: dict[str, float]) -> None:
    async def check() -> None:
        proxy = Waiting()
        starter = launcher(proxy, said)
        start = asyncio.create_task(starter.start(3))
        await until(lambda: starter.waits_for(3) == "the cluster has no room for another (CPU: 2 wanted, 0.5 free)")
        free["GPU"] = 0
        await until(lambda: "GPU: 1 wanted, 0 free" in starter.waits_for(3))
        assert starter.waits_for(2) == ""
        free.update(CPU=8, GPU=1)
        await until(lambda: starter.waits_for(3) == "")
        proxy.placed.set()
        assert await start is proxy  # type: ignore[comparison-overlap]
        assert starter.waits_for(3) == "" and not proxy.killed

    said: list[str] = []
    asyncio.run(check())
    assert said == [
        "sampler 3 waits: the cluster has no room for another (CPU: 2 wanted, 0.5 free)",
        "sampler 3 waits: the cluster has no room for another (CPU: 2 wanted, 0.5 free; GPU: 1 wanted, 0 free)",
        "sampler 3 up after 0 s",
    ]


def test_a_start_without_room_ends_with_what_is_missing_and_leaves_nothing(free: dict[str, float]) -> None:
    async def check() -> None:
        proxy = Waiting()
        starter = launcher(proxy, [], startup_timeout_s=0.05)
        with pytest.raises(ResourceError, match=r"no node had room for sampler 1 .* \(CPU: 2 wanted, 0.5 free\)"):
            await starter.start(1)
        assert proxy.killed and starter.waits_for(1) == ""

    assert free["GPU"] == 3
    asyncio.run(check())


def test_a_late_start_does_not_blame_the_room_that_it_reserved_itself(
    free: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an actor without a process had reserved is free a while after it was ended, not at once."""
    looks = 0

    def available() -> dict[str, float]:
        nonlocal looks
        looks += proxy.killed
        return {"CPU": 8, "GPU": 1} if looks > 3 else dict(free)

    async def check() -> None:
        with pytest.raises(DeadlineError, match=r"sampler 1 got no process within cluster.startup_timeout_s") as caught:
            await launcher(proxy, [], startup_timeout_s=0.05).start(1)
        assert caught.value.exit_code == 70

    proxy = Waiting()
    monkeypatch.setattr(launchers, "_RELEASE_S", 20)
    monkeypatch.setattr(launchers.ray, "available_resources", available)
    asyncio.run(check())
    assert proxy.killed and looks > 3


def test_what_the_whole_cluster_has_not_was_never_reserved(
    free: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        with pytest.raises(ResourceError, match=r"CPU: 64 wanted, 0.5 free"):
            await launcher(Waiting(), [], startup_timeout_s=0.05, needs=Needs(num_cpus=64)).start(1)

    assert free["CPU"] == 0.5
    monkeypatch.setattr(launchers, "_RELEASE_S", 3600)
    asyncio.run(asyncio.wait_for(check(), 20))


def test_of_many_that_wait_for_the_same_one_says_so(free: dict[str, float]) -> None:
    async def check() -> None:
        proxy = Waiting()
        starter = launcher(proxy, said)
        starts = [asyncio.create_task(starter.start(slot)) for slot in range(30)]
        await until(lambda: all(starter.waits_for(slot) for slot in range(30)))
        proxy.placed.set()
        await asyncio.gather(*starts)

    assert free["CPU"] == 0.5
    said: list[str] = []
    asyncio.run(check())
    assert len([line for line in said if "waits" in line]) == 1


def test_of_thousands_a_few_wait_for_a_process_at_a_time(free: dict[str, float]) -> None:
    """The others do not even have an actor; those that are called off give their turn to the next."""

    async def check() -> None:
        def made(*_: object) -> Waiting:
            proxies.append(Waiting())
            return proxies[-1]

        starter = launcher(Waiting(), [])
        starter._proxy = made  # type: ignore[assignment]
        starts = [asyncio.create_task(starter.start(slot)) for slot in range(1000)]
        await until(lambda: starter.waits_for(0) and starter.waits_for(999) == "others wait for a process before it")
        assert len(proxies) == launchers._MAX_UNPLACED
        for start in starts[: launchers._MAX_UNPLACED]:
            start.cancel()
        await until(lambda: len(proxies) == 2 * launchers._MAX_UNPLACED)
        for _ in range(1000):
            for proxy in proxies:
                proxy.placed.set()
            await asyncio.sleep(0)
        await asyncio.wait(starts)
        assert all(start.cancelled() for start in starts[: launchers._MAX_UNPLACED])
        assert all(start.result() for start in starts[launchers._MAX_UNPLACED :])
        assert not any(starter.waits_for(slot) for slot in range(1000))

    assert free["CPU"] == 0.5
    proxies: list[Waiting] = []
    asyncio.run(check())


def test_an_actor_reserves_what_its_role_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def remote(**options: object) -> Any:
        asked.update(options)
        return lambda _: SimpleNamespace(remote=lambda: None)

    monkeypatch.setattr(launchers, "ray", SimpleNamespace(remote=remote))
    config = ClusterConfig(num_cpus_per_sampler=2, num_gpus_per_sampler=1, resources_per_sampler={"sampler": 1})
    proxy = Waiting()
    proxy.placed.set()
    asyncio.run(launcher(proxy, [], needs=RoleNeeds(config).sampler).start(0))
    assert (asked["num_cpus"], asked["num_gpus"], asked["resources"]) == (2, 1, {"sampler": 1})
