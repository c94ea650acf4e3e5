"""Learner ranks as Ray actors: they find each other, start together and end together."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle

from gkd_dist.cluster.actors import LearnerActor
from gkd_dist.cluster.launchers import ActorLauncher, Needs
from gkd_dist.cluster.learner_group import LearnerGroup
from gkd_dist.cluster.proxies import LearnerProxy
from gkd_dist.cluster.whereabouts import Whereabouts
from gkd_dist.interfaces import Learner
from gkd_dist.learners.seat import RankSeat
from gkd_dist.process import DEFAULTS
from gkd_dist.supervision.together import gather_all


@dataclass(frozen=True)
class RankPlan:
    """What one rank is built from."""

    make: Callable[[RankSeat], Learner]
    rank: int
    size: int
    setup_timeout_s: float
    timeout_s: float
    loopback: bool
    """All ranks are on one machine and need no other address."""
    leader: "ActorHandle[Any] | None" = None
    """Rank 0; None there."""


class RankActor(LearnerActor):
    """A learner rank in its own process. Rank 0 chooses a free port, at which all meet before they load anything."""

    def __init__(self, plan: RankPlan) -> None:
        super().__init__(partial(self._sit_down, plan))
        self._plan = plan
        self._listener: int | None = None
        self._address = ("", 0)  # of the others, until they are `ready`
        if plan.leader is None:
            listener = socket.create_server(("127.0.0.1" if plan.loopback else ray.util.get_node_ip_address(), 0))
            self._address = listener.getsockname()[:2]
            self._listener = listener.detach()  # the store closes it

    async def ready(self) -> Whereabouts:
        """As `LearnerActor.ready`.

        Raises:
            DeadlineError: the other ranks did not come.
        """
        leader = self._plan.leader
        if leader is not None:
            self._address = await leader.address.remote()
        return await super().ready()

    async def address(self) -> tuple[str, int]:
        """Host and port at which rank 0 listens."""
        return self._address

    def _sit_down(self, plan: RankPlan) -> Learner:
        seat = RankSeat(plan.rank, plan.size, *self._address, plan.setup_timeout_s, plan.timeout_s, self._listener)
        return plan.make(seat)


_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "65536",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 20),
}
"""Whole layers come and go in a rank. Kept by glibc, what they leave behind is as large as what the other ranks took
over (benchmarks/learner_ranks.py: 2.9 GiB a rank instead of 1.8)."""


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of a rank, from that of any actor; the user's own values win."""
    own = {name for name in _ALLOCATOR if environment.get(name) != DEFAULTS.get(name)}
    return {**environment, **{name: value for name, value in _ALLOCATOR.items() if name not in own}}


class LearnerGroupLauncher:
    """Starts and ends all ranks of a learner together.

    Args:
        make: of each rank, by its seat.
        needs: of each.
        environment: variables of each process.
        startup_timeout_s: from the request for an actor to a rank that is built.
        probe_timeout_s: as `ActorLauncher`.
        timeout_s: of a request, and of an exchange between ranks.
        loopback: see `RankPlan`.
        say: as `ActorLauncher`.
    """

    def __init__(
        self,
        make: Callable[[RankSeat], Learner],
        num_ranks: int,
        *,
        needs: Needs,
        environment: Mapping[str, str],
        startup_timeout_s: float,
        probe_timeout_s: float,
        timeout_s: float,
        loopback: bool,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._plan = RankPlan(make, 0, num_ranks, startup_timeout_s, timeout_s, loopback)
        self._timeout_s = timeout_s
        self._limits: dict[str, Any] = {
            "needs": needs,
            "environment": rank_environment(environment),
            "startup_timeout_s": startup_timeout_s,
            "probe_timeout_s": probe_timeout_s,
            "say": say,
        }

    async def start(self, slot: int) -> LearnerGroup:
        """A group whose ranks are all built; as `ActorLauncher.start`, and nothing is left running on a failure."""
        del slot  # there is one
        leader: asyncio.Future[ActorHandle[Any]] = asyncio.get_running_loop().create_future()
        proxies: list[LearnerProxy] = []

        def proxy(actor: "ActorHandle[Any]", name: str) -> LearnerProxy:
            proxies.append(LearnerProxy(actor, name, self._timeout_s))
            if not leader.done():  # rank 0: the others wait for it
                leader.set_result(actor)
            return proxies[-1]

        async def start_rank(rank: int) -> LearnerProxy:
            plan = replace(self._plan, rank=rank, leader=await leader if rank else None)
            return await ActorLauncher("learner rank {}".format, RankActor, (plan,), proxy, **self._limits).start(rank)

        def end() -> None:
            for each in proxies:
                each.kill()

        try:
            return LearnerGroup(await gather_all(map(start_rank, range(self._plan.size))), end)
        except BaseException:
            end()
            raise

    async def kill(self, replica: LearnerGroup) -> None:
        """Never raises."""
        replica.end()
