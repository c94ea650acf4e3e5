"""What a run scored: the ground for means, intervals and claims."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gkd_dist.experiments.spec import SEED

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measurement:
    """One metric of one evaluation of one run."""

    run: str
    stage: str
    labels: Mapping[str, str]
    """By axis, `seed` among them."""
    evaluation: str
    metric: str
    value: float
    resampled: npt.NDArray[np.float64] = field(repr=False)
    """[NUM_RESAMPLES] values under resampled rows; the same resamples for all runs with the same rows."""
    num_rows: int

    @property
    def place(self) -> dict[str, str]:
        """What selections look at."""
        return {**self.labels, "stage": self.stage, "evaluation": self.evaluation}

    @property
    def seed(self) -> str:
        return self.labels.get(SEED, "")
