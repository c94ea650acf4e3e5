"""What came of a simulated run."""

import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gkd_dist.replay.ledger import StepEntry
from gkd_dist.simulation.scenario import Scenario
from gkd_dist.simulation.shard import Shard

BUSY = 0.93
"""Share of the time from which on something counts as the bottleneck."""


@dataclass(frozen=True, slots=True)
class Window:
    """From the end of one step to the end of a later one."""

    start_s: float
    end_s: float
    num_sequences: int

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Busy:
    """Seconds of work up to some moment, over all shards."""

    driver: float
    """Of the busiest controller."""
    samplers: float
    """Of their places for running sequences."""
    teachers: float
    learner: float
    publish: float
    """In which new weights were on their way to some sampler, of the first shard."""
    wait: float
    """In which the learner of the first shard waited for a batch."""
    blocked: float
    """In which nothing might be given out, of the first shard."""
    cpu: float
    """Of this process, really: the controllers' code, and that of the simulation."""

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> "Busy":
        accounts = shards[0].ring.accounts
        return cls(
            driver=max(each.driver.busy_s for each in shards),
            samplers=sum(engine.batch.full_s for each in shards for engine in each.samplers.engines.values()),
            teachers=sum(engine.batch.full_s for each in shards for engine in each.teachers.engines.values()),
            learner=shards[0].learner.busy_s,
            publish=accounts.spent_s("publish"),
            wait=accounts.spent_s("wait"),
            blocked=accounts.spent_s("blocked"),
            cpu=time.process_time(),
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """Of the real program, while it ran."""

    cpu_s: float
    """Processor seconds of this process, simulated engines included."""
    seconds: float
    max_rss_bytes: int
    """Of this process in its whole life."""
    num_jumps: int
    """Of the clock: moments at which something happened."""


@dataclass(frozen=True)
class Outcome:
    """Shares are of the window's seconds."""

    scenario: Scenario
    window: Window
    shares: dict[str, float]
    staleness: Counter[int]
    """Sequences drawn, by train steps."""
    num_evicted: int
    num_deaths: int
    num_restarts: int
    num_retired: int
    num_trained: int
    num_trained_twice: int
    """Ids that the ledger names more than once."""
    targets: list[tuple[float, int]]
    """When the policy changed the number of samplers, and to what."""
    measured: Measured

    @property
    def sequences_per_s(self) -> float:
        return self.window.num_sequences / self.window.seconds

    @property
    def of_ideal(self) -> float:
        """Throughput over that of the slowest role."""
        return self.sequences_per_s / self.scenario.ideal_per_s

    @property
    def bottleneck(self) -> str:
        """What is at work nearly all the time; where nothing is, what keeps the others waiting."""
        for name in ("driver", "learner", "publish"):
            if self.shares[name] >= BUSY:
                return {"publish": "publication"}.get(name, name)
        roles = {name: self.shares[name] for name in ("samplers", "teachers")}
        most = max(roles, key=roles.__getitem__)
        if roles[most] >= BUSY:
            return most
        return "staleness bound" if self.shares["blocked"] > 0.5 else most


def shares_of(before: Busy, after: Busy, window: Window, scenario: Scenario) -> dict[str, float]:
    """What each was at work, over what it could have been in the window."""
    seconds = window.seconds
    places = {
        "samplers": scenario.num_samplers * scenario.sampler.max_running,
        "teachers": scenario.num_teachers,
    }
    return {
        name: (getattr(after, name) - getattr(before, name)) / (seconds * places.get(name, 1))
        for name in Busy.__dataclass_fields__
    }


def twice_trained(shards: Sequence[Shard]) -> tuple[int, int]:
    """Ids in the ledgers, and how many of them are there more than once."""
    number = twice = 0
    for shard in shards:
        ids = Counter(
            sequence.sample_id
            for entry in shard.ring.ledger.entries()
            if isinstance(entry, StepEntry)
            for sequence in entry.sequences
        )
        number += ids.total()
        twice += sum(times > 1 for times in ids.values())
    return number, twice


def max_rss_bytes() -> int:
    """Of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
