"""Baselines: how much better than expected an answer was (arXiv 2306.13649, eq. 5, by REINFORCE).

An advantage is a reward less its baseline, and 0 for what the student did not write. Subtracting what does not depend
on the answer itself leaves the expected gradient as it is, and lowers its variance.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gkd_dist.errors import EngineError
from gkd_dist.types import FloatArray, ScoredTrajectory


class Baseline(Protocol):
    def advantages(self, scored: Sequence[ScoredTrajectory]) -> FloatArray:
        """[B] float32, one per trajectory of a train step; call once for every step, in order."""
        ...

    @property
    def state(self) -> float | None:
        """What a checkpoint has to keep; None where there is nothing."""
        ...


class MovingAverage:
    """Reward less the running mean of former steps: mean = decay * mean + (1 - decay) * mean of the step.

    The first step that has rewards has no former one and takes its own mean. That mean holds each reward itself with a
    share of 1 / n for n rewards, so this one step is (n - 1) / n of its length; its direction is unbiased.

    Args:
        decay: in [0, 1).
        mean: of former steps, from a checkpoint.
    """

    def __init__(self, decay: float, mean: float | None = None) -> None:
        self._decay = decay
        self.mean = mean
        """Of the steps so far; None before the first one that has rewards."""

    @property
    def state(self) -> float | None:
        """See `Baseline`."""
        return self.mean

    def advantages(self, scored: Sequence[ScoredTrajectory]) -> FloatArray:
        """See `Baseline`."""
        rewards = [item.reward for item in scored if item.reward is not None]
        if not rewards:
            return np.zeros(len(scored), dtype=np.float32)
        step_mean = sum(rewards) / len(rewards)
        baseline = step_mean if self.mean is None else self.mean
        self.mean = step_mean if self.mean is None else self._decay * self.mean + (1 - self._decay) * step_mean
        advantages = [0.0 if item.reward is None else item.reward - baseline for item in scored]
        return np.asarray(advantages, dtype=np.float32)


class LeaveOneOut:
    """Reward less the mean reward of the other samples of the same prompt, in the same step (RLOO).

    Args:
        num_generations: samples of each prompt, at least 2.
    """

    def __init__(self, num_generations: int) -> None:
        if num_generations < 2:
            raise ValueError(f"leave_one_out needs at least 2 samples of a prompt, got {num_generations}")
        self._num_generations = num_generations

    @property
    def state(self) -> float | None:
        """Nothing: every step stands for itself."""
        return None

    def advantages(self, scored: Sequence[ScoredTrajectory]) -> FloatArray:
        """See `Baseline`.

        Raises:
            EngineError: some samples of a prompt are missing from the step.
        """
        groups: dict[int, list[float]] = defaultdict(list)
        for item in scored:
            if item.reward is not None:
                groups[item.trajectory.sample_id.prompt_index].append(item.reward)
        for index, rewards in groups.items():
            if len(rewards) != self._num_generations:
                raise EngineError(
                    f"leave_one_out needs all {self._num_generations} samples of a prompt in one step, but only "
                    f"{len(rewards)} of prompt {index} are there; set objective.baseline=moving_average"
                )
        return np.asarray([self._advantage(item, groups) for item in scored], dtype=np.float32)

    def _advantage(self, item: ScoredTrajectory, groups: dict[int, list[float]]) -> float:
        if item.reward is None:
            return 0.0
        others = self._num_generations - 1
        total = sum(groups[item.trajectory.sample_id.prompt_index])
        return item.reward - (total - item.reward) / others
