"""A running job answers `gkd scale` and shows `gkd status`; queue pressure moves the numbers of replicas."""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from gkd_dist.config.models import SamplerConfig, TeacherConfig
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError
from gkd_dist.fleet import Fleet, role_of
from gkd_dist.interfaces import Journal, Placed, Replicas
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.stage import Stage, State
from gkd_dist.runs.control import Panel, Target, target_problems
from gkd_dist.runs.events import Tell, nobody
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.runs.status import MAX_PROBLEM, ProcessStatus, RoleStatus, SlotStatus, Status
from gkd_dist.supervision.scaling import Decision, Pressure, decide
from gkd_dist.supervision.together import gather_all

logger = logging.getLogger(__name__)

_DECISION_S = 10.0
_SHOW_S = 1.0


class Steering:
    """What a job says and does about its replicas.

    Args:
        attempt: number of this start of the run.
        journal: shown with the other processes; None where there is none.
        tell: told of every change of a target.
    """

    def __init__(
        self,
        config: RunConfig,
        directory: RunDirectory,
        fleet: Fleet,
        accounts: StepAccounts,
        stage: Stage,
        attempt: int,
        tell: Tell = nobody,
        journal: Journal | None = None,
    ) -> None:
        self._config = config
        self._journal = journal
        self._fleet = fleet
        self._accounts = accounts
        self._stage = stage
        self._attempt = attempt
        self._tell = tell
        self._panel = Panel(directory, apply=self._apply, status=self.status)

    async def attend(self) -> None:
        """Answer, show and scale, for ever."""
        await gather_all([self._panel.attend(), self._follow_pressure(), self._show()])

    def status(self) -> Status:
        """This moment."""
        ring = self._stage.ring
        return Status(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            attempt=self._attempt,
            pid=os.getpid(),
            host=socket.gethostname(),
            node=self._fleet.node,
            state=self._state,
            step=ring.progress.step if ring else 0,
            max_steps=self._config.learner.max_steps,
            samplers=_role(self._fleet.samplers),
            teachers={name: _role(pool) for name, pool in self._fleet.teachers.items()},
            learners=tuple(_processes(self._fleet.learner)),
            reward=next(iter(_places(self._fleet.reward)), None),
            journal=next(iter(_processes(self._journal)), None),
            queue_depth=ring.replay.depth if ring else 0,
            staleness=self._accounts.staleness,
            max_staleness=self._config.max_staleness,
            last_checkpoint=ring.checkpointer.last_step if ring and ring.checkpointer else None,
            tokens_per_s=dict(self._accounts.tokens_per_s),
        )

    @property
    def _state(self) -> Literal[State, "stopping"]:
        ring = self._stage.ring
        return self._stage.state if ring is None or not ring.stop.is_set() else "stopping"

    async def _show(self) -> None:
        """Keep the metrics at the present moment, whether or not something comes to an end."""
        while True:
            ring = self._stage.ring
            self._accounts.show(self._state, len(ring.intake.in_flight) if ring else 0)
            await asyncio.sleep(_SHOW_S)

    async def _follow_pressure(self) -> None:
        """Move the roles that have bounds towards what the queue asks for (`supervision/scaling.py`)."""
        limits: dict[str, SamplerConfig | TeacherConfig] = {"samplers": self._config.sampler}
        limits |= self._config.named_teachers
        pools = {"samplers": self._fleet.samplers, **self._fleet.teachers}
        decisions: dict[str, Decision] = {}
        waited, blocked = self._spent()
        while True:
            await asyncio.sleep(_DECISION_S)
            (waited_before, blocked_before), (waited, blocked) = (waited, blocked), self._spent()
            ring = self._stage.ring
            if ring is None or self._stage.state != "training":
                decisions.clear()
                continue
            # So much waits at most while one batch is trained on.
            capacity = min(ring.plan.replay_capacity, max(1, ring.plan.max_staleness) * ring.plan.batch_size)
            for name, pool in pools.items():
                limit = limits[name]
                if limit.min_replicas is None and limit.max_replicas is None:
                    continue
                pressure = Pressure(
                    elapsed_s=_DECISION_S,
                    queue_depth=ring.replay.depth,
                    queue_capacity=capacity,
                    num_in_flight=pool.num_outstanding + pool.num_waiting,
                    waited_s=waited - waited_before,
                    blocked_s=blocked - blocked_before,
                    num_taken=ring.plan.batch_size,
                    num_serving=len(pool.serving),
                )
                most = max(limit.max_replicas or limit.num_replicas, pool.target)
                decision = decide(pressure, pool.target, limit.min_replicas or 1, most, decisions.get(name))
                decisions[name] = decision
                if decision.desired != pool.target:
                    logger.warning("%s: %d -> %d replicas by queue pressure", name, pool.target, decision.desired)
                    self._set_target(name, pool, decision.desired, "pressure")

    def _spent(self) -> tuple[float, float]:
        return self._accounts.spent_s("wait"), self._accounts.spent_s("blocked")

    def _apply(self, target: Target) -> None:
        """
        Raises:
            ConfigError: numbers that the configuration does not allow; nothing was changed.
        """
        if problems := target_problems(self._config, target.samplers, target.teachers):
            raise ConfigError(problems)
        if target.samplers is not None:
            self._set_target("samplers", self._fleet.samplers, target.samplers, "request")
        for name, number in target.teachers.items():
            self._set_target(name, self._fleet.teachers[name], number, "request")

    def _set_target(self, name: str, pool: Replicas[Any], target: int, reason: str) -> None:
        former = pool.target
        pool.set_target(target)
        role = "sampler" if pool is self._fleet.samplers else role_of(name)
        self._tell("scale", role=role, former=str(former), state=str(target), reason=reason)


def _processes(part: object) -> list[ProcessStatus]:
    """Of a part; none where it is in this process."""
    places = part.places if isinstance(part, Placed) else []
    return [_process(place) for place in places]


def _places(pool: Replicas[Any] | None) -> list[ProcessStatus]:
    """Of replicas; none where they are in this process."""
    return [] if pool is None else [_process(each.place) for each in pool.slots if "pid" in each.place]


def _process(place: Mapping[str, str | int]) -> ProcessStatus:
    return ProcessStatus(pid=int(place["pid"]), node=str(place["node"]))


def _role(pool: Replicas[Any]) -> RoleStatus:
    return RoleStatus(
        target=pool.target,
        slots=tuple(
            SlotStatus(
                slot=each.slot,
                state=each.state,  # type: ignore[arg-type]  # the same words, a test says so
                pid=each.place.get("pid"),  # type: ignore[arg-type]
                node=each.place.get("node"),  # type: ignore[arg-type]
                restarts=each.num_restarts,
                problem=each.problem[:MAX_PROBLEM],
            )
            for each in pool.slots
        ),
    )
