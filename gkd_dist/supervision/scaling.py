"""How many replicas a role should have, by the pressure on the queue behind it. Pure: what is remembered is passed in.

The rule. A role fills a queue that somebody empties (samplers for teachers, teachers for the learner).

* It is *short* when who empties the queue waited for more than a tenth of the time, the queue is at most a quarter
  full or holds less than what is taken at once (a learner waits beside nine tenths of its batch), and every replica
  had something to do: where requests are missing, more replicas would not help.
* It is *idle* when it was blocked (no room, nothing it may begin) for more than a tenth of the time, the queue is at
  least three quarters full, and one replica fewer would still do: the share of the time that replicas worked, carried
  by one fewer, stays below nine tenths.
* Else it is as it should be.

The number changes after `patience` decisions in a row that said the same; then the count begins anew. A role that is
idle gives up one replica. One that is short grows to what the wait says: who empties the queue works for the share
1 - waited of the time with `current` replicas, so all of the time with current / (1 - waited) of them; rounded down,
one more at least, and at most twice as many, because a wait may have other causes that more replicas do not end. While
replicas are being started the wait speaks of those that serve: what has been asked for is not asked for again.
Between short and idle lies a wide band where nothing changes, and the last condition of idle keeps out the change that
would have to be undone: so the number settles, and from 1 to N in about log2(N) changes.
"""

from dataclasses import dataclass

SHORT_WAITED = 0.1
IDLE_BLOCKED = 0.1
SHORT_FULL = 0.25
IDLE_FULL = 0.75
MOST_BUSY = 0.9


@dataclass(frozen=True, slots=True)
class Pressure:
    """What happened since the last decision.

    Raises:
        ValueError: a span of time that is not above 0, or a capacity below 1.
    """

    elapsed_s: float
    queue_depth: int
    queue_capacity: int
    num_in_flight: int
    """Requests that the role works on now."""
    waited_s: float
    """How long who empties the queue had nothing to take."""
    blocked_s: float
    """How long the role could not go on: no room in the queue, or nothing it may begin."""
    num_taken: int = 1
    """At once, by who empties the queue: a part of it is nothing to take."""
    num_serving: int | None = None
    """Replicas that work now; None: all that there should be."""

    def __post_init__(self) -> None:
        if self.elapsed_s <= 0 or self.queue_capacity < 1:
            raise ValueError(f"need elapsed_s > 0 and queue_capacity >= 1, got {self}")


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be, and what led here: pass it to the next decision."""

    desired: int
    num_short: int = 0
    """Decisions in a row that found the role short."""
    num_idle: int = 0


def decide(
    pressure: Pressure, current: int, minimum: int, maximum: int, last: Decision | None = None, patience: int = 3
) -> Decision:
    """The rule of this module.

    Args:
        current: replicas there should be now; brought within the limits at once.
        last: the decision before; None at the beginning.

    Raises:
        ValueError: the limits contradict each other, or patience is below 1.
    """
    if not 1 <= minimum <= maximum or patience < 1:
        raise ValueError(f"need 1 <= minimum <= maximum and patience >= 1, got {minimum}, {maximum}, {patience}")
    if not minimum <= current <= maximum:
        return Decision(min(max(current, minimum), maximum))
    last = last or Decision(current)
    num_short = last.num_short + 1 if current < maximum and _is_short(pressure, current) else 0
    num_idle = last.num_idle + 1 if current > minimum and _is_idle(pressure, current) else 0
    if num_short >= patience:
        return Decision(max(current + 1, min(maximum, _enough(pressure, current))))
    if num_idle >= patience:
        return Decision(current - 1)
    return Decision(current, num_short, num_idle)


def _enough(pressure: Pressure, current: int) -> int:
    """Replicas that would leave nobody waiting."""
    serving = current if pressure.num_serving is None else min(current, pressure.num_serving)
    worked = 1 - min(1.0, pressure.waited_s / pressure.elapsed_s)
    return max(serving + 1, 2 * serving if worked <= 0.5 else int(serving / worked))


def _is_short(pressure: Pressure, current: int) -> bool:
    is_waited_for = pressure.waited_s / pressure.elapsed_s > SHORT_WAITED
    is_empty = pressure.queue_depth <= max(SHORT_FULL * pressure.queue_capacity, pressure.num_taken - 1)
    is_answered = _enough(pressure, current) <= current  # by those that are being started
    return is_waited_for and is_empty and not is_answered and pressure.num_in_flight >= current


def _is_idle(pressure: Pressure, current: int) -> bool:
    blocked = min(1.0, pressure.blocked_s / pressure.elapsed_s)
    is_full = pressure.queue_depth >= IDLE_FULL * pressure.queue_capacity
    return blocked > IDLE_BLOCKED and is_full and (1 - blocked) * current < MOST_BUSY * (current - 1)
