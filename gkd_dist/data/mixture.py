"""The mixture of student and fixed sequences: lambda of the paper (floor F2).

Source: Agarwal et al., arXiv 2306.13649, Algorithm 1 (the coin); the quota has the same expectation without
the variance.
"""

import random
from fractions import Fraction
from math import floor
from typing import Literal

from gkd_dist.config.objective import ScheduleConfig


class Mixture:
    """How many sequences of each batch the student writes; a pure function of the step, so a resumed run agrees.

    Args:
        student_fraction: lambda at step 0, in [0, 1].
        mix: `per_batch` draws one coin per step from (seed, step), as Algorithm 1 does: all of the batch or none.
            `per_sequence` fills an exact quota: after n steps the student has written
            floor(batch_size * (sum of lambda over these steps) + 1/2) sequences, half a sequence off at most.
        schedule: `constant`; `linear` from student_fraction at step 0 to `final` at `at_step` (None: max_steps);
            `step` jumps to `final` at `at_step`.
        batch_size: sequences per step.
        num_generations: samples of each prompt that the student answers, a divisor of batch_size: the quota is then
            one of prompts, batch_size / num_generations of them a step, and off by half of one at most. A fixed pair
            is one sequence, whatever the number.
        seed: of the coin.
        max_steps: length of the run, in train steps.
    """

    def __init__(
        self,
        student_fraction: float,
        mix: Literal["per_batch", "per_sequence"],
        schedule: ScheduleConfig,
        *,
        batch_size: int,
        seed: int,
        max_steps: int,
        num_generations: int = 1,
    ) -> None:
        if not 0 <= student_fraction <= 1:
            raise ValueError(f"student_fraction must lie in [0, 1], got {student_fraction}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_generations < 1 or batch_size % num_generations:
            raise ValueError(f"num_generations must divide batch_size {batch_size}, got {num_generations}")
        self._mix = mix
        self._type = schedule.type
        # Decimal, not binary, fractions: a quota of 0.1 must not drift by a sequence in a long run.
        self._first = Fraction(str(student_fraction))
        self._final = self._first if schedule.final is None else Fraction(str(schedule.final))
        self._at_step = schedule.at_step or max(max_steps, 1)
        self._batch_size = batch_size
        self._num_generations = num_generations
        self._seed = seed
        self._tossed = [0]
        """Under `per_batch`: prompts answered in the first 0, 1, 2, ... steps."""

    @property
    def needs_fixed(self) -> bool:
        """Whether any step may ask for a fixed sequence."""
        return min(self._first, self._final) < 1

    @property
    def needs_student(self) -> bool:
        """Whether any step may ask for a sequence of the student."""
        return max(self._first, self._final) > 0

    def student_fraction(self, step: int) -> float:
        """lambda at `step`, counted from 0."""
        if self._type == "linear":
            return float(self._first + (self._final - self._first) * Fraction(min(step, self._at_step), self._at_step))
        return float(self._first if step < self._at_step else self._final)

    @property
    def num_generations(self) -> int:
        """Samples of each prompt that the student answers."""
        return self._num_generations

    def num_student(self, step: int) -> int:
        """How many of the `batch_size` sequences of `step` the student writes; the rest are fixed pairs."""
        return self.num_prompts(step) * self._num_generations

    def num_prompts(self, step: int) -> int:
        """How many prompts the student answers in `step`, `num_generations` times each."""
        if step < 0:
            raise ValueError(f"a step counts from 0, got {step}")
        if self._mix == "per_sequence":
            return self._quota(step + 1) - self._quota(step)
        coin = random.Random(f"mixture/{self._seed}/{step}").random()
        return self._most_prompts if coin < self.student_fraction(step) else 0

    def first_position(self, step: int) -> int:
        """Rows of the stream that the steps before `step` use: one per prompt answered, one per fixed pair."""
        if self._num_generations == 1:
            return step * self._batch_size
        return step * self._batch_size - self._num_prompts_before(step) * (self._num_generations - 1)

    @property
    def _most_prompts(self) -> int:
        return self._batch_size // self._num_generations

    def _num_prompts_before(self, step: int) -> int:
        if self._mix == "per_sequence":
            return self._quota(step)
        while len(self._tossed) <= step:  # the sums are kept; what was asked for before changes none of them
            self._tossed.append(self._tossed[-1] + self.num_prompts(len(self._tossed) - 1))
        return self._tossed[step]

    def _quota(self, num_steps: int) -> int:
        """Prompts that the student answers in the first `num_steps` steps."""
        moving = min(num_steps, self._at_step)
        total = moving * self._first + (num_steps - moving) * self._final
        if self._type == "linear":
            total += (self._final - self._first) * Fraction(moving * (moving - 1), 2 * self._at_step)
        return floor(self._most_prompts * total + Fraction(1, 2))
