"""Signs of life: what answers, failures and probes say of a replica, and what follows."""

from typing import Generic

from gkd_dist.errors import EngineError, OutOfMemoryError, WeightsError, plain
from gkd_dist.supervision.failures import Failure, classify
from gkd_dist.supervision.health import Reason, State
from gkd_dist.supervision.roster import Roster
from gkd_dist.supervision.slots import Incarnation, Replica


class Signs(Generic[Replica]):
    """Hears about every request, and asks where it hears nothing."""

    def __init__(self, roster: Roster[Replica]) -> None:
        self._roster = roster

    def answered(self, incarnation: Incarnation[Replica]) -> None:
        """A request was answered."""
        incarnation.is_blamed = False
        incarnation.answered_at = self._roster.clock()
        if not incarnation.ended:
            incarnation.slot.health.request_succeeded(self._roster.clock())

    def failed(self, incarnation: Incarnation[Replica], error: Exception) -> None:
        """A request failed. The replica is probed where the error may mean that it is dead."""
        roster = self._roster
        if incarnation.ended or roster.is_fixed or classify(error) is Failure.DATA:
            return
        if isinstance(error, OutOfMemoryError):  # known to be dead
            roster.condemn(incarnation, Reason.DIED, error)
            return
        if isinstance(error, WeightsError):  # it serves with weights that it should not have
            roster.condemn(incarnation, Reason.OBLIGATION, error)
            return
        incarnation.slot.health.request_failed(roster.clock(), plain(error))
        roster.settle(incarnation)
        if isinstance(error, EngineError) and not incarnation.ended and not incarnation.probes:
            self._ask(incarnation, condemn=True)

    def look_for(self, incarnation: Incarnation[Replica]) -> float:
        """Probe it where that is due; returns when it is due again.

        A healthy replica that has answered a request since its last turn has shown all that a probe would. A suspect
        one is probed all the same: only a good probe excuses a failed one. Turns keep their distance either way, so
        that those of thousands that started together stay one pass of the supervisor.
        """
        now, interval_s = self._roster.clock(), self._roster.rules.probe_interval_s
        if now >= incarnation.probed_at + interval_s and not incarnation.probes:
            if incarnation.slot.health.state is State.HEALTHY and incarnation.answered_at > incarnation.probed_at:
                incarnation.probed_at = now
            else:
                self._ask(incarnation)
        return incarnation.probed_at + interval_s

    def _ask(self, incarnation: Incarnation[Replica], condemn: bool = False) -> None:
        """In the background; without an answer it is condemned, or its probes count one failure."""
        incarnation.probed_at = self._roster.clock()
        task = self._roster.background.spawn(self._probe(incarnation, condemn))
        incarnation.probes.add(task)
        task.add_done_callback(incarnation.probes.discard)

    async def _probe(self, incarnation: Incarnation[Replica], condemn: bool) -> None:
        roster = self._roster
        try:
            await roster.launcher.probe(incarnation.replica)
        except Exception as error:
            if incarnation.ended:
                return
            if condemn or isinstance(error, OutOfMemoryError):
                roster.condemn(incarnation, Reason.DIED, error)
            else:
                incarnation.slot.health.probe_failed(roster.clock(), plain(error))
                roster.settle(incarnation)
        else:
            if not incarnation.ended:
                incarnation.slot.health.probe_succeeded(roster.clock())
