"""Starts simulated actors, and ends them: on order, or at random."""

import asyncio
import math
import random
from collections.abc import Callable
from typing import Generic, TypeVar

from gkd_dist.simulation.engines import Mortal
from gkd_dist.simulation.scenario import Lifetimes

Engine = TypeVar("Engine", bound=Mortal)


class SimulatedLauncher(Generic[Engine]):
    """Implements `supervision.slots.Launcher`.

    Args:
        make: an engine for a slot.
        seed: of the lifetimes; that of an actor depends on its slot and on how often it was started.
    """

    def __init__(self, make: Callable[[int], Engine], lifetimes: Lifetimes, seed: str) -> None:
        self._make = make
        self._lifetimes = lifetimes
        self._seed = seed
        self._num_starts: dict[int, int] = {}
        self._deaths: dict[str, asyncio.TimerHandle] = {}
        self.engines: dict[int, Engine] = {}
        """The newest of each slot."""
        self.num_deaths = 0
        self.is_running = False
        """Whether the run has begun."""

    async def start(self, slot: int) -> Engine:
        number = self._num_starts.get(slot, 0)
        self._num_starts[slot] = number + 1
        lifetimes = self._lifetimes
        await asyncio.sleep(lifetimes.startup_s if self.is_running else lifetimes.first_startup_s)
        engine = self.engines[slot] = self._make(slot)
        if lifetimes.mtbf_s < math.inf:
            life_s = random.Random(f"{self._seed}/{slot}/{number}").expovariate(1 / lifetimes.mtbf_s)
            self._deaths[engine.name] = asyncio.get_running_loop().call_later(life_s, self._die, engine)
        return engine

    def _die(self, engine: Engine) -> None:
        self.num_deaths += 1
        engine.die()

    async def probe(self, engine: Engine) -> None:
        await engine.ping()

    async def kill(self, engine: Engine) -> None:
        death = self._deaths.pop(engine.name, None)
        if death is not None:
            death.cancel()
        if engine.is_alive:
            engine.die()

    def waits_for(self, slot: int) -> str:  # noqa: ARG002 - of the Protocol
        return ""

    def describe(self, engine: Engine) -> dict[str, str | int]:
        return {"type": type(engine).__name__}
