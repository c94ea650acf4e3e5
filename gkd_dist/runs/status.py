"""What a running job says about itself, about once a second, in `control/status.json` (floor F2)."""

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


class Status(Document):
    """One moment of a run."""

    attempt: int = Field(ge=1)
    pid: int
    """Of the controller."""
    host: str = Field(max_length=200)
    state: RunState
    step: int = Field(ge=0)
    """Train steps done."""
    max_steps: int = Field(ge=0)
    samplers: RoleStatus
    teachers: dict[str, RoleStatus]
    """By name."""
    learner: SlotStatus | None = None
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
