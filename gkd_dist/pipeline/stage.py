"""Where a job is, for whoever looks at it from outside."""

from dataclasses import dataclass
from typing import Literal

from gkd_dist.pipeline.ring import Ring
from gkd_dist.runs.events import Tell, nobody

State = Literal["starting", "evaluating", "training", "saving"]


@dataclass
class Stage:
    """Changes as the job goes on."""

    state: State = "starting"
    ring: Ring | None = None
    """The one that turns, or turned last."""
    tell: Tell = nobody
    """Told what happens."""

    def enter(self, state: State) -> None:
        """The job does this now."""
        self.tell("stage", former=self.state, state=state)
        self.state = state
