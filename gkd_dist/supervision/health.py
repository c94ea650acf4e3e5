"""The state machine of one slot: what may follow what, and which failures lead there. Pure; every call says the time.

    DEAD -> RESTARTING -> STALE -> HEALTHY <-> SUSPECT     a replica serves in the last two
    DEAD -> RETIRED                                        more than max_restarts in one spell of trouble
    RESTARTING, STALE, HEALTHY, SUSPECT, DRAINING -> DEAD
    STALE, HEALTHY, SUSPECT -> DRAINING -> STALE           scaled away, and taken back
    HEALTHY, SUSPECT -> STALE                              late with what others have done, such as load new weights

Nothing leads from DEAD or STALE to HEALTHY but a catch-up: no replica serves with weights of the past. Failures of
probes and of real requests are counted apart, because an engine may answer `ping`, load weights, and never finish a
request: only a finished request excuses failed ones, only a good probe failed probes. A new replica begins anew.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import GkdError
from gkd_dist.supervision.backoff import backoff_s


class State(StrEnum):
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    """Serves only where no other replica is healthy, or to show that it can."""
    DEAD = "dead"
    """Nothing runs; it is started when its back-off is over. Every slot begins here."""
    RESTARTING = "restarting"
    STALE = "stale"
    """Runs, and has not yet done what every replica must, such as load the newest weights."""
    DRAINING = "draining"
    """Scaled away: finishes its requests and takes no more."""
    RETIRED = "retired"
    """Failed too often; it is not started again."""


SERVING = frozenset({State.HEALTHY, State.SUSPECT})
RUNNING = SERVING | {State.STALE, State.DRAINING}

EDGES: dict[State, frozenset[State]] = {
    State.DEAD: frozenset({State.RESTARTING, State.RETIRED}),
    State.RESTARTING: frozenset({State.STALE, State.DEAD}),
    State.STALE: frozenset({State.HEALTHY, State.DRAINING, State.DEAD}),
    State.HEALTHY: frozenset({State.SUSPECT, State.STALE, State.DRAINING, State.DEAD}),
    State.SUSPECT: frozenset({State.HEALTHY, State.STALE, State.DRAINING, State.DEAD}),
    State.DRAINING: frozenset({State.STALE, State.DEAD}),
    State.RETIRED: frozenset(),
}


class Reason(StrEnum):
    """Why a slot changed its state; those of a death are label values of gkd_replica_restarts_total."""

    NEW = "new"
    PROBE = "probe"
    """Probes failed, so many in a row."""
    REQUEST = "request"
    """Real requests failed, so many in a row."""
    DIED = "died"
    """A request failed as if it were dead, and so did the probe that followed."""
    OOM = "oom"
    """It was killed because its machine ran out of memory."""
    OBLIGATION = "obligation"
    """It could not do what every replica must, such as load new weights."""
    START = "start"
    """It could not be started."""
    NO_ROOM = "no_room"
    """There was no place to start it, or it did not start in time."""
    SCALED = "scaled"
    """It was scaled away."""
    STARTED = "started"
    CAUGHT_UP = "caught_up"
    CLEARED = "cleared"
    LATE = "late"
    """Others had done what every replica must, such as load new weights, and it had not."""
    TAKEN_BACK = "taken_back"
    EXHAUSTED = "exhausted"
    """Of restarts."""


class IllegalTransitionError(GkdError):
    """A slot was told to go where its state does not lead: a mistake of the caller."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state: the witness that it happened."""

    when: float
    """Of the pool's clock, seconds."""
    slot: int
    from_state: State
    to_state: State
    reason: Reason
    detail: str = ""
    """The error that led here; pid and node of a replica that started."""


@dataclass(slots=True)
class Streak:
    """Failures of one kind in a row, and successes in a row since then."""

    num_failures: int = 0
    num_successes: int = 0
    suspicious: bool = False

    def fail(self) -> None:
        self.num_failures += 1
        self.num_successes = 0
        self.suspicious = True

    def succeed(self, successes_to_clear: int) -> None:
        self.num_failures = 0
        self.num_successes += 1
        if self.num_successes >= successes_to_clear:
            self.suspicious = False


class SlotHealth:
    """State, streaks and restart budget of one slot.

    Args:
        slot: its number.
        record: told of every change of state.

    Every method that changes something takes the time `now`, seconds, and raises IllegalTransitionError where the
    present state does not allow it.
    """

    def __init__(self, slot: int, rules: SupervisionConfig, now: float, record: Callable[[Event], None]) -> None:
        self._slot = slot
        self._rules = rules
        self._record = record
        self._probes = Streak()
        self._requests = Streak()
        self._request_failed_at = now
        self._num_no_room = 0
        self._death = Reason.NEW
        self.state = State.DEAD
        self.num_restarts = 0
        """Used of the budget since the last long time in good health."""
        self.restart_at = now
        """When a dead slot may be started."""
        self.since = now
        """When the present state began."""
        self.detail = ""
        """What led to it: see `Event`."""

    @property
    def serves(self) -> bool:
        return self.state in SERVING

    def may_be_tried(self, now: float) -> bool:
        """Whether it is time for a replica that requests made suspect to show what it can: nothing else clears or
        condemns it while others are healthy."""
        return now >= self.trial_at

    @property
    def trial_at(self) -> float:
        """When `may_be_tried` begins; infinity where it does not."""
        if self.state is not State.SUSPECT or not self._requests.suspicious:
            return math.inf
        return self._request_failed_at + self._rules.probe_interval_s

    def forgive(self, now: float) -> None:
        """Restarts are forgotten after so long in good health: the budget is for one spell of trouble."""
        if self.state is State.HEALTHY and now >= self.since + self._rules.restart_reset_s:
            self.num_restarts = 0

    def begin_start(self, now: float) -> None:
        if self.state is State.DEAD and now < self.restart_at:
            raise IllegalTransitionError(f"slot {self._slot} may start at {self.restart_at:g}, not at {now:g}")
        self._move(State.RESTARTING, now, self._death)

    def started(self, now: float, detail: str = "") -> None:
        """It runs, and must catch up."""
        self._require(frozenset({State.RESTARTING}), "have started")
        self._move(State.STALE, now, Reason.STARTED, detail)
        self._probes, self._requests = Streak(), Streak()
        self._num_no_room = 0

    def caught_up(self, now: float) -> None:
        """It did what every replica must, and serves from now on."""
        self._require(frozenset({State.STALE}), "catch up")
        self._move(State.HEALTHY, now, Reason.CAUGHT_UP)

    def request_succeeded(self, now: float) -> None:
        self._require(RUNNING, "finish a request")
        self._requests.succeed(self._rules.successes_to_clear)
        self._clear(now)

    def request_failed(self, now: float, detail: str = "") -> None:
        self._require(RUNNING, "fail a request")
        self._request_failed_at = now
        self._fail(self._requests, now, Reason.REQUEST, detail)

    def probe_succeeded(self, now: float) -> None:
        self._require(RUNNING, "answer a probe")
        self._probes.succeed(self._rules.successes_to_clear)
        self._clear(now)

    def probe_failed(self, now: float, detail: str = "") -> None:
        self._require(RUNNING, "fail a probe")
        self._fail(self._probes, now, Reason.PROBE, detail)

    def die(self, now: float, reason: Reason, detail: str = "") -> None:
        """It is ended, or did not start. Uses up one restart, but for SCALED and NO_ROOM: a full cluster says nothing
        about the slot."""
        self._move(State.DEAD, now, reason, detail)
        self._death = reason
        if reason is Reason.SCALED:
            self.restart_at = now
        elif reason is Reason.NO_ROOM:
            self._num_no_room += 1
            self.restart_at = now + backoff_s(self._rules, self.num_restarts + self._num_no_room)
        elif self.num_restarts >= self._rules.max_restarts:
            self._move(State.RETIRED, now, Reason.EXHAUSTED, detail)
        else:
            self.num_restarts += 1
            self.restart_at = now + backoff_s(self._rules, self.num_restarts)

    def drain(self, now: float) -> None:
        self._move(State.DRAINING, now, Reason.SCALED)

    def fall_behind(self, now: float) -> None:
        """It has not done what others have, and serves no more until it has."""
        self._require(SERVING, "fall behind")
        self._move(State.STALE, now, Reason.LATE)

    def take_back(self, now: float) -> None:
        """Wanted again: it must catch up with what it missed."""
        self._require(frozenset({State.DRAINING}), "be taken back")
        self._move(State.STALE, now, Reason.TAKEN_BACK)

    def _fail(self, streak: Streak, now: float, reason: Reason, detail: str) -> None:
        streak.fail()
        if streak.num_failures >= self._rules.failures_to_condemn:
            self.die(now, reason, detail)
        elif self.state is State.HEALTHY:
            self._move(State.SUSPECT, now, reason, detail)

    def _clear(self, now: float) -> None:
        if self.state is State.SUSPECT and not (self._probes.suspicious or self._requests.suspicious):
            self._move(State.HEALTHY, now, Reason.CLEARED)

    def _require(self, states: frozenset[State], what: str) -> None:
        if self.state not in states:
            raise IllegalTransitionError(f"slot {self._slot} is {self.state} and cannot {what}")

    def _move(self, to_state: State, now: float, reason: Reason, detail: str = "") -> None:
        if to_state not in EDGES[self.state]:
            raise IllegalTransitionError(f"slot {self._slot} cannot go from {self.state} to {to_state} ({reason})")
        self.forgive(now)
        event = Event(now, self._slot, self.state, to_state, reason, detail)
        self.state = to_state
        self.since = now
        self.detail = detail
        self._record(event)
