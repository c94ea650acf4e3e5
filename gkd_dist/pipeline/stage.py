"""Where a job is, for whoever looks at it from outside."""

from dataclasses import dataclass
from typing import Literal

from gkd_dist.pipeline.ring import Ring


@dataclass
class Stage:
    """Changes as the job goes on."""

    state: Literal["starting", "evaluating", "training", "saving"] = "starting"
    ring: Ring | None = None
    """The one that turns, or turned last."""
