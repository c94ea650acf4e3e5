"""Random schedules of requests, failures, deaths, hangs, new weights and new targets, in a time of their own.

Whatever happens: no request is lost or answered wrongly, none is given to a replica that has not the weights that are
live or that has as many as it may, none waits while a healthy replica that has not failed it has room, obligations come
newest last and never twice, and once the faults end the pool has its target and is at work.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import DeadlineError, EngineError, RejectedError, ResourceError
from gkd_dist.supervision.health import EDGES, SERVING, State
from gkd_dist.supervision.pool import Pool
from gkd_dist.testing.replicas import FakeLauncher, FakeReplica
from gkd_dist.testing.timing import FakeTime

FAILURES = {"engine": EngineError("failed"), "deadline": DeadlineError("late"), "rejected": RejectedError("too long")}
START_ERRORS = {"engine": EngineError("cannot load"), "full": ResourceError("full"), "late": DeadlineError("slow")}


class RandomPool(RuleBasedStateMachine):
    @initialize(
        num_slots=st.integers(1, 4),
        hedge_after_s=st.sampled_from([None, 2.0]),
        max_ongoing=st.sampled_from([1, 2, math.inf]),
    )
    def begin(self, num_slots: int, hedge_after_s: float | None, max_ongoing: float) -> None:
        rules = SupervisionConfig(
            max_restarts=1000, infra_attempts=1000, data_attempts=2, role_loss_grace_s=2e6, drain_timeout_s=20.0,
            max_restart_backoff_s=8.0, hedge_after_s=hedge_after_s, catch_up_timeout_s=10.0,
        )  # fmt: skip
        self.is_hedging = hedge_after_s is not None
        self.max_ongoing = max_ongoing
        self.loop = asyncio.new_event_loop()
        self.time = FakeTime()
        self.launcher = FakeLauncher()
        self.pool: Pool[FakeReplica] = Pool(
            "sampler", self.launcher, rules, target=num_slots, max_ongoing=max_ongoing, clock=self.time.clock,
            sleep=self.time.sleep,
        )  # fmt: skip
        self.calls: dict[int, asyncio.Task[int]] = {}
        self.bringing: list[asyncio.Task[None]] = []
        self.num_obligations = 0
        self.live = 0
        """Newest obligation that `bring_up` said every serving replica has done."""
        self.faults: list[str] = []
        self.do(self.pool.start())
        self.supervision = self.loop.create_task(self.pool.supervise())
        self.settle()

    def do(self, work: Coroutine[Any, Any, Any]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(work, timeout=20))

    def settle(self) -> None:
        self.do(self.time.settle())

    def pending(self) -> list[tuple[FakeReplica, int]]:
        return [
            (replica, number)
            for replica in self.launcher.left
            if replica.is_alive and not replica.is_hung
            for number in sorted(replica.pending)
            if not replica.pending[number].done()
        ]

    def living(self) -> list[FakeReplica]:
        return [replica for replica in self.launcher.left if replica.is_alive]

    @rule()
    def dispatch(self) -> None:
        number = len(self.calls)

        async def serve(replica: FakeReplica) -> int:
            assert self.pool.states[replica.slot] in SERVING, "only who serves is asked"
            assert max(replica.loaded, default=0) >= self.live, "a replica serves with weights of the past"
            return await replica.serve(number)

        self.calls[number] = self.loop.create_task(self.pool.call(serve, "sample"))
        self.settle()

    @precondition(lambda self: any(not call.done() for call in self.calls.values()))
    @rule(data=st.data(), turns=st.integers(0, 3))
    def cancel(self, data: st.DataObject, turns: int) -> None:
        """Of somebody, in the moment in which a replica has answered, say."""
        number = data.draw(st.sampled_from([number for number, call in self.calls.items() if not call.done()]))
        if self.pending():
            replica, other = data.draw(st.sampled_from(self.pending()))
            replica.finish(other)
        for _ in range(turns):
            self.do(asyncio.sleep(0))
        self.calls[number].cancel()
        self.settle()

    @precondition(lambda self: self.pending())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        replica, number = data.draw(st.sampled_from(self.pending()))
        replica.finish(number)
        self.settle()

    @precondition(lambda self: self.pending())
    @rule(data=st.data(), kind=st.sampled_from(sorted(FAILURES)))
    def fail(self, data: st.DataObject, kind: str) -> None:
        replica, number = data.draw(st.sampled_from(self.pending()))
        replica.fail(number, FAILURES[kind])
        self.settle()

    @precondition(lambda self: self.living())
    @rule(data=st.data(), is_noticed=st.booleans())
    def kill(self, data: st.DataObject, is_noticed: bool) -> None:
        victim = data.draw(st.sampled_from(self.living()))
        victim.is_alive = False
        if is_noticed:
            victim.die()
        self.settle()

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def hang(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.living())).is_hung = True

    @precondition(lambda self: self.living())
    @rule(data=st.data(), is_held=st.booleans())
    def slow_or_broken_loading(self, data: st.DataObject, is_held: bool) -> None:
        replica = data.draw(st.sampled_from(self.living()))
        if is_held:
            replica.hold_obligations = True
        else:
            replica.obligation_error = EngineError("cannot load")

    @rule()
    def bring_up(self) -> None:
        self.num_obligations += 1
        number = self.num_obligations

        async def bring() -> None:
            await self.pool.bring_up(lambda replica: replica.load(number))
            self.live = max(self.live, number)

        self.bringing.append(self.loop.create_task(bring()))
        self.settle()

    @rule()
    def release(self) -> None:
        self.launcher.release()
        for replica in self.launcher.left:
            replica.release()
        self.settle()

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 16.0]))
    def wait(self, seconds: float) -> None:
        self.do(self.time.advance(seconds))

    @rule(num_slots=st.integers(1, 4))
    def scale(self, num_slots: int) -> None:
        self.pool.set_target(num_slots)
        self.settle()

    @rule(slot=st.integers(0, 3), kind=st.sampled_from(sorted(START_ERRORS)))
    def spoil_a_start(self, slot: int, kind: str) -> None:
        self.launcher.errors.setdefault(slot, []).append(START_ERRORS[kind])

    @rule(starts=st.booleans())
    def hold(self, starts: bool) -> None:
        if starts:
            self.launcher.hold_starts = True
        else:
            self.launcher.hold_kills = True

    @invariant()
    def answers_are_right(self) -> None:
        for number, call in self.calls.items():
            if call.done() and not call.cancelled():
                error = call.exception()
                assert error is FAILURES["rejected"] or (error is None and call.result() == number), repr(error)

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        assert self.pool.num_outstanding == sum(len(replica.pending) for replica in self.launcher.left)
        copies = Counter(number for replica in self.launcher.left for number in replica.pending)
        if self.is_hedging:  # who answers second goes on to its end
            assert max(copies.values(), default=0) <= 2
        else:
            assert copies.keys() <= {number for number, call in self.calls.items() if not call.done()}

    @invariant()
    def nobody_has_more_than_the_bound(self) -> None:
        assert all(len(replica.pending) <= self.max_ongoing for replica in self.launcher.left)

    @invariant()
    def nobody_waits_who_could_be_served(self) -> None:
        asked = {number for replica in self.launcher.left for number in replica.pending}
        waiting = {number for number, call in self.calls.items() if not call.done()} - asked
        for slot, replica in self.pool.serving.items():
            if self.pool.states[slot] is State.HEALTHY and len(replica.pending) < self.max_ongoing:
                assert waiting <= set(replica.asked), f"{waiting} wait, and {slot} has room"

    @invariant()
    def obligations_come_newest_last_and_once(self) -> None:
        for replica in self.launcher.replicas:
            assert replica.loaded == sorted(set(replica.loaded))

    @invariant()
    def every_change_is_an_edge(self) -> None:
        assert all(event.to_state in EDGES[event.from_state] for event in self.pool.events)

    @invariant()
    def the_supervisor_lives(self) -> None:
        assert not self.supervision.done(), self.supervision

    def teardown(self) -> None:
        if not hasattr(self, "supervision"):
            return
        try:
            self.heal()
            assert self.is_whole, self.pool.states
            assert all(task.done() and task.exception() is None for task in self.bringing)
            assert all(max(replica.loaded, default=0) == self.num_obligations for replica in self.pool.serving.values())
            assert all(call.done() for call in self.calls.values()), "a request was lost"
            self.answers_are_right()
        finally:
            self.supervision.cancel()
            self.do(self.pool.close())
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.settle()
            self.loop.close()
        assert self.launcher.left == []

    @property
    def is_whole(self) -> bool:
        """Every slot of the target serves, and no other is there; a suspect one needs requests to be cleared."""
        return [*self.pool.states] == [*range(self.pool.target)] and set(self.pool.states.values()) <= SERVING

    def heal(self) -> None:
        """No more faults; every request is finished wherever it is."""
        self.launcher.errors.clear()
        for _ in range(100):
            for replica in self.launcher.left:
                replica.obligation_error = None
            self.release()
            for replica, number in self.pending():
                replica.finish(number)
            self.wait(5.0)
            if self.is_whole and all(task.done() for task in (*self.calls.values(), *self.bringing)):
                return


TestRandomPool = pytest.mark.fault(38)(RandomPool.TestCase)
TestRandomPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
