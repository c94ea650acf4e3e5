"""The chronicle: every change of a pool's slots is told once, with its own time."""

import asyncio
from typing import Any

from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.chronicle import Chronicle
from gkd_dist.supervision.health import Event, Reason, State


class Changes:
    """A pool that has nothing but events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def change(self, when: float, slot: int, former: State, state: State, reason: Reason) -> None:
        self.events.append(Event(when, slot, former, state, reason, "why"))


def test_every_change_is_told_once_with_its_time() -> None:
    samplers, math = Changes(), Changes()
    told: list[tuple[Any, ...]] = []
    now = [100.0]

    def tell(kind: str, *, ago_s: float = 0.0, **fields: Any) -> None:
        told.append((kind, now[0] - ago_s, fields["role"], fields["slot"], fields["state"], fields["reason"]))

    fleet = Fleet(samplers=samplers, teachers={"math": math}, learner=None)  # type: ignore[arg-type]
    chronicle = Chronicle(fleet, tell, clock=lambda: now[0])
    samplers.change(90.0, 0, State.DEAD, State.RESTARTING, Reason.NEW)
    chronicle.look()
    chronicle.look()
    assert told == [("replica", 90.0, "sampler", 0, "restarting", "new")]
    now[0] = 130.0
    samplers.change(110.0, 0, State.RESTARTING, State.STALE, Reason.STARTED)
    samplers.change(111.0, 0, State.STALE, State.HEALTHY, Reason.CAUGHT_UP)
    math.change(120.0, 1, State.HEALTHY, State.DEAD, Reason.OOM)
    chronicle.look()
    assert told[1:] == [
        ("replica", 110.0, "sampler", 0, "stale", "started"),
        ("replica", 111.0, "sampler", 0, "healthy", "caught_up"),
        ("replica", 120.0, "teacher math", 1, "dead", "oom"),
    ]


def test_it_looks_once_more_when_it_is_ended() -> None:
    samplers = Changes()
    told: list[str] = []

    async def end_after_one_look() -> None:
        fleet = Fleet(samplers=samplers, teachers={}, learner=None)  # type: ignore[arg-type]
        chronicle = Chronicle(fleet, lambda kind, **_: told.append(kind))
        task = asyncio.create_task(chronicle.attend())
        await asyncio.sleep(0)
        samplers.change(1.0, 0, State.HEALTHY, State.DEAD, Reason.DIED)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(end_after_one_look())
    assert told == ["replica"]
