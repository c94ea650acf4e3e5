"""Random faults against the replicas of a running job: by a seed, with exponential gaps, and each with its witness.

A gate keeps a run possible: a role never loses its last replica that was not struck before. Victims are found by the
pools' own registry of processes (`slots`), never by a search through the machine.
"""

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Replicas
from gkd_dist.supervision.health import SERVING, State

LEARNER = "learner"


class Fault(StrEnum):
    KILL = "kill"
    """SIGKILL."""
    HANG = "hang"
    """SIGSTOP."""
    SCALE = "scale"


@dataclass(frozen=True)
class Injected:
    """One fault that was injected."""

    when: float
    """Monotonic seconds, as in the events of pools."""
    at_s: float
    """Since the injector began."""
    fault: Fault
    role: str
    slot: int | None = None
    pid: int | None = None
    target: int | None = None
    """Of a scale command."""

    def __str__(self) -> str:
        where = self.role if self.slot is None else f"{self.role} {self.slot}"
        what = f"to {self.target}" if self.target is not None else f"pid {self.pid}"
        return f"{self.at_s:7.1f} s  {self.fault} {where} {what}"


Scale = Callable[[str, int], None]
"""Asks the running job for so many replicas of a role."""


@dataclass(frozen=True)
class Menu:
    """What is injected, and how often.

    Args:
        mean_gap_s: of the exponential gaps between faults.
        targets: numbers of replicas that scale commands ask for, by role.
        learner_kills_at: the earliest moments for them, seconds since the injector began.
    """

    mean_gap_s: float
    targets: Mapping[str, tuple[int, ...]]
    learner_kills_at: tuple[float, ...] = ()


_SHARES = {Fault.KILL: 4, Fault.HANG: 2, Fault.SCALE: 3}
"""How often each kind is drawn, relative to the others."""


class Injector:
    """Strikes until `is_over` says so.

    Args:
        scale: asks for other numbers of replicas.
        is_over: looked at between two faults.
        log: told about every fault.
    """

    def __init__(
        self,
        fleet: Fleet,
        menu: Menu,
        *,
        seed: int,
        scale: Scale,
        is_over: Callable[[], bool],
        log: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._menu = menu
        self._random = random.Random(f"soak/{seed}")
        self._scale = scale
        self._is_over = is_over
        self._log = log
        self._began = time.monotonic()
        self._learner_kills = list(menu.learner_kills_at)
        self._pools: dict[str, Replicas[Any]] = {"sampler": fleet.samplers, **fleet.teachers}
        self._targets = {role: pool.target for role, pool in self._pools.items()}
        self.injected: list[Injected] = []

    @property
    def targets(self) -> dict[str, int]:
        """What was asked for last, by role."""
        return dict(self._targets)

    async def run(self) -> None:
        """Until it is over."""
        self._began = time.monotonic()
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._menu.mean_gap_s))
            if self._is_over():
                return
            self._strike()

    def _strike(self) -> None:
        """One fault that the gate allows; none where it allows none."""
        if self._learner_kills and time.monotonic() >= self._began + self._learner_kills[0]:
            pid = _pid_of(self._fleet.learner)
            if pid is not None and pid not in self._struck:
                self._learner_kills.pop(0)
                self._send(Fault.KILL, LEARNER, 0, pid)
                return
        (fault,) = self._random.choices(list(_SHARES), list(_SHARES.values()))
        if fault is Fault.SCALE:
            role = self._random.choice(sorted(self._menu.targets))
            others = [number for number in self._menu.targets[role] if number != self._targets[role]]
            self._targets[role] = self._random.choice(others)
            self._scale(role, self._targets[role])
            self._note(Injected(time.monotonic(), self._now, fault, role, target=self._targets[role]))
            return
        victims = [
            (role, slot, pid) for role in sorted(self._pools) if len(live := self._live(role)) > 1 for slot, pid in live
        ]
        if victims:
            self._send(fault, *self._random.choice(victims))

    def _live(self, role: str) -> list[tuple[int, int]]:
        """(slot, pid) of those that serve, are wanted and were not struck."""
        return [
            (each.slot, int(each.place["pid"]))
            for each in self._pools[role].slots
            if State(each.state) in SERVING
            and each.slot < self._targets[role]
            and int(each.place["pid"]) not in self._struck
        ]

    @property
    def _struck(self) -> set[int | None]:
        return {each.pid for each in self.injected if each.pid is not None}

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    def _send(self, fault: Fault, role: str, slot: int, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP if fault is Fault.HANG else signal.SIGKILL)
        self._note(Injected(time.monotonic(), self._now, fault, role, slot, pid))

    def _note(self, injected: Injected) -> None:
        self.injected.append(injected)
        self._log(str(injected))


def _pid_of(part: Any) -> int | None:
    place = part.place
    return None if place is None else int(place.process.pid)


def processes(pool: Replicas[Any]) -> set[int]:
    """All that ever ran for a pool, by its events."""
    found = (re.search(r"pid=(\d+)", event.detail) for event in pool.events if event.to_state is State.STALE)
    return {int(match[1]) for match in found if match}


def num_healed(pool: Replicas[Any], role: str, injected: list[Injected]) -> int:
    """How many of the struck replicas of a role were found dead and replaced by one that serves: events of the pool,
    each counted once."""
    number = 0
    for strike in injected:
        if strike.role != role or strike.fault is Fault.SCALE:
            continue
        later = [event for event in pool.events if event.slot == strike.slot and event.when >= strike.when]
        states = [event.to_state for event in later]
        if State.DEAD in states and State.HEALTHY in states[states.index(State.DEAD) :]:
            number += 1
    return number
