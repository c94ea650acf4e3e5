"""Starting, probing and ending the actors of one role: what a pool of replicas is supervised with."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorHandle

from gkd_dist.cluster.actors import CONCURRENCY_GROUPS, Shell
from gkd_dist.cluster.proxies import Proxy
from gkd_dist.errors import DeadlineError, ResourceError
from gkd_dist.supervision.together import beside

logger = logging.getLogger(__name__)

_LOOK_S = 3.0
"""A cluster with room has a process by then."""
_MAX_UNPLACED = 32
"""Actors of a role that wait for a process at once. Thousands keep Ray and this process busy with nothing else."""
_RELEASE_S = 10.0
"""What an actor that was ended reserved is free again by then, and Ray says so."""
_RELEASE_LOOK_S = 0.2

AnyProxy = TypeVar("AnyProxy", bound=Proxy)


@dataclass(frozen=True)
class Needs:
    """What one actor reserves on one node."""

    num_cpus: float = 0
    num_gpus: float = 0
    custom: Mapping[str, float] = field(default_factory=dict)
    """Of Ray's custom resources."""

    def __add__(self, other: "Needs") -> "Needs":
        names = [*self.custom, *(name for name in other.custom if name not in self.custom)]
        return Needs(
            self.num_cpus + other.num_cpus,
            self.num_gpus + other.num_gpus,
            {name: self.custom.get(name, 0) + other.custom.get(name, 0) for name in names},
        )

    def __mul__(self, number: int) -> "Needs":
        """Of so many actors."""
        custom = {name: amount * number for name, amount in self.custom.items()}
        return Needs(self.num_cpus * number, self.num_gpus * number, custom)

    def missing(self, free: Mapping[str, float]) -> list[str]:
        """One piece of text for each resource of which `free` has too little."""
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.custom}
        return [
            f"{name}: {amount:g} wanted, {free.get(name, 0):g} free"
            for name, amount in wanted.items()
            if amount > free.get(name, 0)
        ]


class ActorLauncher(Generic[AnyProxy]):
    """Implements `supervision.pool.Launcher` for the actors of one role.

    Args:
        name_of: what messages call the replica of a slot.
        shell: actor class.
        arguments: of the shell.
        proxy: makes a proxy of an actor and its name.
        needs: of each.
        environment: variables of each process.
        startup_timeout_s: from the request for an actor to a part that is built.
        probe_timeout_s: of one ping.
        say: told in one line of a part that is up, and of one that no node has room for.
    """

    def __init__(
        self,
        name_of: Callable[[int], str],
        shell: type[Shell[Any]],
        arguments: tuple[Any, ...],
        proxy: Callable[["ActorHandle[Any]", str], AnyProxy],
        *,
        needs: Needs,
        environment: Mapping[str, str],
        startup_timeout_s: float,
        probe_timeout_s: float,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._name_of = name_of
        self._shell = shell
        self._arguments = arguments
        self._proxy = proxy
        self._needs = needs
        self._environment = dict(environment)
        self._startup_timeout_s = startup_timeout_s
        self._probe_timeout_s = probe_timeout_s
        self._say = say
        self._turns = asyncio.Semaphore(_MAX_UNPLACED)
        self._waits: dict[int, str] = {}
        """By slot."""

    async def start(self, slot: int) -> AnyProxy:
        """The proxy of a new actor whose part is built. Deadlines count from its turn.

        Raises:
            ResourceError: no node had room for it in time.
            DeadlineError: it was not built in time.
            GkdError: what the part raised while it was built; EngineError where the actor died.
        """
        options: dict[str, Any] = {  # Ray's types know of no concurrency groups
            "num_cpus": self._needs.num_cpus,
            "num_gpus": self._needs.num_gpus,
            "resources": dict(self._needs.custom),
            "max_restarts": 0,
            "concurrency_groups": CONCURRENCY_GROUPS,
            "runtime_env": {"env_vars": self._environment},
        }
        actor_class = ray.remote(**options)(self._shell)
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(self._turn(slot))
            began = time.monotonic()
            proxy = self._proxy(actor_class.remote(*self._arguments), self._name_of(slot))
            try:
                async with asyncio.timeout(self._startup_timeout_s):
                    async with beside(self._watch(proxy, slot)):
                        await proxy.locate()
                    await turn.aclose()  # what is built in processes of their own is built side by side
                    await proxy.build()
            except TimeoutError:
                proxy.kill()
                raise await self._late(proxy, slot) from None
            except BaseException:
                proxy.kill()
                raise
        self._say(f"{self._name_of(slot)} up after {time.monotonic() - began:.0f} s")
        return proxy

    def waits_for(self, slot: int) -> str:
        return self._waits.get(slot, "")

    async def probe(self, replica: AnyProxy) -> None:
        """Raises:
        EngineError, DeadlineError: it is dead, its engine is, or it says nothing.
        """
        try:
            async with asyncio.timeout(self._probe_timeout_s):
                await replica.ping()
        except TimeoutError:
            raise DeadlineError(f"no answer to a ping within {self._probe_timeout_s:g} s") from None

    async def kill(self, replica: AnyProxy) -> None:
        """Never raises; a process on another host that is stopped is left to Ray."""
        replica.kill()

    def describe(self, replica: AnyProxy) -> dict[str, str | int]:
        place = replica.place
        return {} if place is None else place.facts

    @asynccontextmanager
    async def _turn(self, slot: int) -> AsyncIterator[None]:
        """Of waiting for a process."""
        if self._turns.locked():
            self._waits[slot] = "others wait for a process before it"
        try:
            await self._turns.acquire()
        finally:
            self._waits.pop(slot, None)
        try:
            yield
        finally:
            self._turns.release()

    async def _watch(self, proxy: AnyProxy, slot: int) -> None:
        """Note what the start of a slot waits for, as long as there is no process."""
        try:
            while proxy.place is None:
                await asyncio.sleep(_LOOK_S)
                missing = await asyncio.to_thread(self._missing) if proxy.place is None else []
                found = f"the cluster has no room for another ({'; '.join(missing)})" if missing else ""
                if found and found not in self._waits.values():  # of many that wait alike, one says so
                    self._say(f"{self._name_of(slot)} waits: {found}")
                self._waits[slot] = found
        except Exception as error:  # a cluster that is gone shows elsewhere
            logger.debug("what is free in the cluster is not known: %s", error)
        finally:
            self._waits.pop(slot, None)

    def _missing(self) -> list[str]:
        """What the cluster lacks for one more; empty where it suffices in all, though perhaps on no single node."""
        return self._needs.missing(ray.available_resources())

    async def _late(self, proxy: AnyProxy, slot: int) -> ResourceError | DeadlineError:
        """What to say of a start that took too long, and was ended."""
        limit = f"within cluster.startup_timeout_s ({self._startup_timeout_s:g} s)"
        if proxy.place is not None:
            return DeadlineError(
                f"{self._name_of(slot)} did not start {limit}; its process {proxy.place.process.pid} on node "
                f"{proxy.place.node} was still at it"
            )
        missing = await self._missing_without_it()
        if missing:
            return ResourceError(
                f"no node had room for {self._name_of(slot)} {limit} ({'; '.join(missing)}); add nodes, lower the "
                "number of replicas, or lower cluster.num_cpus_* and num_gpus_*"
            )
        return DeadlineError(f"{self._name_of(slot)} got no process {limit}; look at Ray's logs")

    async def _missing_without_it(self) -> list[str]:
        """What the cluster lacks for an actor that was ended: what it had reserved itself is not free at once."""
        has_reserved_nothing = bool(self._needs.missing(ray.cluster_resources()))
        ended = time.monotonic()
        while missing := await asyncio.to_thread(self._missing):
            if has_reserved_nothing or time.monotonic() - ended >= _RELEASE_S:
                break
            await asyncio.sleep(_RELEASE_LOOK_S)
        return missing
