"""What the controller's processor does in a step: one thread, one call after the other (floor F2).

    calls      one for each request, order to load weights, and call of the learner
    seconds    = call_s calls + sequence_s sequences (each is sampled once, and scored once by each teacher it goes to)
    probes     = call_s step / interval exp(-answers interval / step)      of each replica, answers: its own in a step

Asynchronous, a request is a row: `num_generations` sequences of the student, or one fixed pair. Synchronous, it is a
replica's share of the batch. A replica is probed where it has answered nothing since its last turn; the exponential is
the share of its turns of which that is true where answers come at random.

The learner's calls wait in line. A queue of one server, first come first served, in which one customer goes round: each
call of the learner joins the line when the one before has left it, and finds what has come in meanwhile, the share
R / s of its stay for R seconds of other work in a step of s. A stay is then its own seconds over 1 - R / s in the mean
(M/G/1 with a permanent customer; only the mean rate counts), and of a learner with L seconds besides C of calls

    s = L + C / (1 - R / s) = (L + R + C + sqrt((L - R)^2 + C^2 + 2 C (L + R))) / 2

the larger root: the other one is below L and R. It exists always, is above R + C wherever L and C are not zero, and at
most L + R + C. Assumed: other work comes evenly over the step, the line that the first call finds is as long as those
of the others, and calls go one after the other. Calls that are sent together wait once for all of them, and less.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Seconds = TypeVar("Seconds", float, npt.NDArray[np.float64])

CALL_S, SEQUENCE_S = 0.99e-3, 0.10e-3
"""Over Ray actors: 2.2 ms for the two calls of a sequence that goes by itself (benchmarks/elastic.json); of eight that
go together each costs a fifth of that (the ratio of `calls` in benchmarks/scale.json)."""
_LOCAL = 0.27 / 2.2
"""Share of that in one process, without Ray (benchmarks/elastic.json, one sequence per request; the ratio between call
and sequence is taken to be the same)."""


@dataclass(frozen=True, slots=True)
class DriverCosts:
    """Processor seconds that a controller spends on its calls."""

    call_s: float = 0.0
    """Of each call of an actor: a request, a ping, an order to load weights."""
    sequence_s: float = 0.0
    """Of each sequence of a request, on top."""


DRIVERS = {"ray": DriverCosts(CALL_S, SEQUENCE_S), "local": DriverCosts(_LOCAL * CALL_S, _LOCAL * SEQUENCE_S)}
"""By `cluster.mode`."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls of one controller in a mean step."""

    sampled: float
    """Requests to samplers."""
    scored: float
    """Requests to teachers."""
    written: float
    """Sequences in the former."""
    read: float
    """Sequences in the latter."""
    orders: float
    """To load weights."""
    learner: float
    """To the learner's ranks."""

    def requests_s(self, costs: DriverCosts) -> float:
        return costs.call_s * (self.sampled + self.scored) + costs.sequence_s * (self.written + self.read)

    def release_s(self, costs: DriverCosts) -> float:
        """Of what a version that is live sets free, and of the orders that wait behind it."""
        return costs.call_s * (self.sampled + self.orders) + costs.sequence_s * self.written

    def learner_s(self, costs: DriverCosts) -> float:
        """For which the learner waits."""
        return costs.call_s * self.learner

    def orders_s(self, costs: DriverCosts) -> float:
        """With what the learner is told."""
        return costs.call_s * self.orders + self.learner_s(costs)

    def seconds(self, costs: DriverCosts) -> float:
        """All but probes."""
        return self.requests_s(costs) + self.orders_s(costs)

    def probes_s(
        self, costs: DriverCosts, *, samplers: float, teachers: float, step_s: float, interval_s: float
    ) -> float:
        """Of a step that takes `step_s`; interval_s is infinite where nothing is probed."""
        if math.isinf(interval_s) or step_s <= 0:
            return 0.0
        turns = step_s / interval_s
        pairs = ((samplers, self.sampled), (teachers, self.scored))
        return sum(
            costs.call_s * turns * number * math.exp(-asked / number / turns) for number, asked in pairs if number
        )


def row_traffic(
    student: float, fixed: float, *, num_generations: int, teachers: float, orders: float, ranks: int = 1
) -> Traffic:
    """Where each row goes round by itself.

    Args:
        student: sequences of a step that the student writes.
        fixed: the others.
        teachers: that a sequence is scored by, in the mean.
        orders: to load weights.
    """
    prompts = student / num_generations
    return Traffic(
        sampled=prompts,
        scored=teachers * (prompts + fixed),
        written=student,
        read=teachers * (student + fixed),
        orders=orders,
        learner=learner_calls(ranks),
    )


def step_in_line(own_s: Seconds, calls_s: Seconds, other_s: Seconds) -> Seconds:
    """Seconds of a step of a learner whose calls wait in line at the controller; floats, or arrays of one shape.

    A second less of `own_s` shortens it by (step - other_s), one of the controller's work by (step - own_s), over the
    same: a controller that is twice as fast helps more than such a learner where calls_s + other_s > own_s.

    Args:
        own_s: of the learner without its calls.
        calls_s: of the controller, for those.
        other_s: of the controller, for everything else in a step.
    """
    root: Seconds = ((own_s - other_s) ** 2 + calls_s * (calls_s + 2 * (own_s + other_s))) ** 0.5
    return (own_s + other_s + calls_s + root) / 2


def learner_calls(ranks: int) -> int:
    """Of a step: train and publish; of several ranks each fetches its targets before any begins."""
    return 2 if ranks == 1 else 3 * ranks
