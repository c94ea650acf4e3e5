"""What a running job says about itself, about once a second, in `control/status.json` (floor F2)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from gkd_dist.runs.documents import Document

SlotState = Literal["healthy", "suspect", "dead", "restarting", "stale", "draining", "retired"]
MAX_PROBLEM = 500
SERVING = frozenset({"healthy", "suspect"})
"""States in which a replica is given work."""
RunState = Literal["starting", "evaluating", "training", "stopping", "saving"]


class SlotStatus(Document):
    """One replica."""

    slot: int = Field(ge=0)
    state: SlotState
    pid: int | None = None
    node: str | None = Field(default=None, max_length=200)
    restarts: int = Field(default=0, ge=0)
    problem: str = Field(default="", max_length=MAX_PROBLEM)
    """Why nothing runs in it: what its start waits for, or what ended the last one."""


class ProcessStatus(Document):
    """A process of a run that is no replica."""

    pid: int
    node: str | None = Field(default=None, max_length=200)
    """Of the cluster; None where there is none."""


class RoleStatus(Document):
    """All replicas of the samplers, or of one teacher."""

    target: int = Field(ge=0)
    slots: tuple[SlotStatus, ...] = ()

    @property
    def num_serving(self) -> int:
        return sum(slot.state in SERVING for slot in self.slots)

    @property
    def has_converged(self) -> bool:
        """Whether as many serve as should, and none is on its way out."""
        return self.num_serving == self.target and all(slot.state != "draining" for slot in self.slots)


@dataclass(frozen=True)
class Alike:
    """Replicas without a process of which the same is to be said."""

    slots: tuple[int, ...]
    state: SlotState
    restarts: int
    problem: str

    @property
    def name(self) -> str:
        """`slot 1`, or `slots 2-5, 7 (5)`."""
        if len(self.slots) == 1:
            return f"slot {self.slots[0]}"
        return f"slots {_ranges(self.slots)} ({len(self.slots)})"

    def __str__(self) -> str:
        return f"{self.name} {self.state}" + (f": {self.problem}" if self.problem else "")


def alike(slots: Iterable[SlotStatus]) -> list[Alike]:
    """`slots` in groups of the same state, number of restarts and problem, in the order of the first of each."""
    groups: dict[tuple[SlotState, int, str], list[int]] = {}
    for slot in slots:
        groups.setdefault((slot.state, slot.restarts, slot.problem), []).append(slot.slot)
    return [Alike(tuple(numbers), *what) for what, numbers in groups.items()]


def _ranges(numbers: Sequence[int]) -> str:
    """`2-5, 7` for 2, 3, 4, 5 and 7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


class Status(Document):
    """One moment of a run."""

    at: str = Field(default="", max_length=40)
    """When that was: UTC, ISO 8601."""
    attempt: int = Field(ge=1)
    pid: int
    """Of the controller, as `host` and `node`."""
    host: str = Field(max_length=200)
    node: str | None = Field(default=None, max_length=200)
    """Of the cluster; None where there is none."""
    state: RunState
    step: int = Field(ge=0)
    """Train steps done."""
    max_steps: int = Field(ge=0)
    samplers: RoleStatus
    teachers: dict[str, RoleStatus]
    """By name."""
    learners: tuple[ProcessStatus, ...] = ()
    """By rank; empty where the learner is in the controller's process. As `reward` and `journal`."""
    reward: ProcessStatus | None = None
    journal: ProcessStatus | None = None
    queue_depth: int = Field(default=0, ge=0)
    """Scored sequences that wait for the learner."""
    staleness: int = Field(default=0, ge=0)
    """Of the last step, train steps."""
    max_staleness: int = Field(default=0, ge=0)
    last_checkpoint: int | None = Field(default=None, ge=0)
    """Train step of the newest good one."""
    tokens_per_s: dict[str, float] = Field(default_factory=dict)
    """`sampler`, `teacher` and `learner`, over the last step."""
    request_id: str | None = None
    """The newest request that was answered; see `control.Target`."""
    problem: str | None = Field(default=None, max_length=2000)
    """Why that request was refused; None where it was not."""

    def role(self, name: str) -> RoleStatus | None:
        """`samplers`, or the teacher of that name behind `teachers.`."""
        return self.samplers if name == "samplers" else self.teachers.get(name.removeprefix("teachers."))
