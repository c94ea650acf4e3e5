"""A pool over replicas that do what the test says, in a time that moves when the test says so."""

import asyncio
from collections.abc import Sequence

import pytest

from gkd_dist.errors import (
    DeadlineError,
    EngineError,
    OutOfMemoryError,
    RejectedError,
    ResourceError,
    RoleLostError,
    WeightsError,
)
from gkd_dist.metrics.catalogue import definition_of
from gkd_dist.supervision.census import Census
from gkd_dist.supervision.health import Reason, State
from gkd_dist.supervision.pool import Pool
from gkd_dist.supervision.roster import MAX_EVENTS
from gkd_dist.testing.fakes import FakeMetrics
from gkd_dist.testing.replicas import FakeLauncher, FakeReplica
from tests.pools import RULES, Scene, in_a_loop, scene


@in_a_loop
async def test_requests_go_where_the_least_is_to_do_and_to_the_lowest_slot_among_equals() -> None:
    async with scene(3) as it:
        tasks = await it.asked(1, 2, 3, 4)
        assert [it.where(number) for number in (1, 2, 3, 4)] == [[0], [1], [2], [0]]
        it.finish(2)
        await it.time.settle()
        tasks += await it.asked(5)
        assert it.where(5) == [1]
        assert it.pool.num_outstanding == 4
        for number in (1, 3, 4, 5):
            it.finish(number)
        assert [await task for task in tasks] == [1, 2, 3, 4, 5]
        assert it.pool.num_outstanding == 0


@pytest.mark.fault(1)
@in_a_loop
async def test_a_replica_that_dies_is_replaced_and_all_it_had_in_hand_goes_elsewhere_at_once() -> None:
    async with scene(2) as it:
        tasks = await it.asked(1, 2, 3)
        victim = it.launcher.running(0)
        assert sorted(victim.pending) == [1, 3]
        victim.is_alive = False  # only one of its requests notices
        victim.fail(1, EngineError("sampler 0 died"))
        await it.time.settle()
        assert it.where(1) == it.where(3) == [1]
        assert it.time.now == 0.0
        assert victim.is_killed
        assert Reason.DIED in it.reasons(0)
        await it.time.advance(1.0)
        assert it.pool.states == {0: State.HEALTHY, 1: State.HEALTHY}
        assert it.launcher.running(0).pid == 3
        for number in (1, 2, 3):
            it.finish(number)
        assert [await task for task in tasks] == [1, 2, 3]
        assert it.count("gkd_requests_retried_total", **{"class": "infra"}) == 2
        assert it.count("gkd_replica_restarts_total", reason="died") == 1


@pytest.mark.fault(49)
@in_a_loop
async def test_a_replica_that_was_killed_for_memory_is_replaced_and_that_is_the_reason() -> None:
    error = OutOfMemoryError("sampler 0 died: out of memory")
    async with scene(2) as it:  # in the middle of work
        (task,) = await it.asked(1)
        it.launcher.running(0).fail(1, error)
        await it.time.settle()
        assert it.where(1) == [1]
        await it.time.advance(1.0)
        it.finish(1)
        assert await task == 1
        assert it.pool.states[0] is State.HEALTHY
        assert it.count("gkd_replica_restarts_total", reason="oom") == 1
    async with scene(2) as it:  # while it catches up
        it.launcher.running(0).obligation_error = error
        await it.pool.bring_up(lambda replica: replica.load(1))
        assert it.reasons(0)[-1] is Reason.OOM


@pytest.mark.fault(36)
@in_a_loop
async def test_a_replica_that_serves_with_other_weights_is_replaced_at_once() -> None:
    async with scene(2) as it:
        (task,) = await it.asked(1)
        it.launcher.running(0).fail(1, WeightsError("version 3 was live, it wrote with version 1"))
        await it.time.settle()
        assert it.where(1) == [1]
        assert it.reasons(0)[-1] is Reason.OBLIGATION
        it.finish(1)
        assert await task == 1
        await it.time.advance(1.0)
        assert it.pool.states == {0: State.HEALTHY, 1: State.HEALTHY}


@in_a_loop
async def test_an_engine_error_of_a_replica_that_lives_makes_it_suspect_only() -> None:
    async with scene(2) as it:
        (task,) = await it.asked(1)
        it.launcher.running(0).fail(1, EngineError("a kernel failed"))
        await it.time.settle()
        assert it.pool.states == {0: State.SUSPECT, 1: State.HEALTHY}
        assert it.where(1) == [1]
        await it.asked(2)
        assert it.where(2) == [1]  # nobody asks the suspect one while another is healthy
        it.finish(1)
        assert await task == 1


@pytest.mark.fault(3)
@in_a_loop
async def test_a_replica_that_dies_while_idle_is_found_by_its_probes() -> None:
    async with scene(2) as it:
        it.launcher.running(1).die()
        await it.time.advance(14.9)
        assert it.pool.states[1] is State.SUSPECT
        await it.time.advance(0.1)
        assert it.pool.states[1] is State.DEAD
        await it.time.advance(1.0)
        assert it.pool.states[1] is State.HEALTHY
        assert it.count("gkd_replica_restarts_total", reason="probe") == 1


@in_a_loop
async def test_who_has_answered_a_request_since_its_last_turn_is_not_probed() -> None:
    async with scene(2) as it:
        for number in range(6):
            (task,) = await it.asked(number)
            assert it.where(number) == [0]
            await it.time.advance(1.0)
            it.finish(number)
            await task
            await it.time.advance(RULES.probe_interval_s - 1.0)
        assert [it.launcher.num_probes(slot) for slot in (0, 1)] == [0, 6]
        it.launcher.running(0).is_hung = True  # with nothing to do
        await it.time.advance(RULES.probe_interval_s * RULES.failures_to_condemn)
        assert it.launcher.replicas[0].is_killed


@in_a_loop
async def test_who_has_failed_a_probe_is_probed_whatever_it_answers() -> None:
    async with scene(1) as it:
        it.launcher.running(0).is_hung = True
        await it.time.advance(RULES.probe_interval_s)
        assert it.pool.states == {0: State.SUSPECT}
        it.launcher.running(0).is_hung = False
        for number in range(RULES.successes_to_clear):
            (task,) = await it.asked(number)
            it.finish(number)
            await task
            assert it.pool.states == {0: State.SUSPECT}
            await it.time.advance(RULES.probe_interval_s)
        assert it.pool.states == {0: State.HEALTHY}
        assert it.launcher.num_probes(0) == 1 + RULES.successes_to_clear


@pytest.mark.fault(5)
@in_a_loop
async def test_a_replica_that_fails_now_and_then_is_restarted_as_long_as_a_run_lasts() -> None:
    async with scene(1, restart_reset_s=100.0) as it:
        for _ in range(3 * RULES.max_restarts):
            it.launcher.running(0).die()
            await it.time.advance(20.0)
            assert it.pool.states == {0: State.HEALTHY}
            assert [each.num_restarts for each in it.pool.slots] == [1]
            await it.time.advance(100.0)
            assert [each.num_restarts for each in it.pool.slots] == [0], "shown, too"


@pytest.mark.fault(4)
@in_a_loop
async def test_a_replica_that_answers_probes_and_no_request_is_tried_again_until_it_is_condemned() -> None:
    async with scene(2) as it:
        for attempt in range(RULES.failures_to_condemn):
            number = 10 + attempt
            (task,) = await it.asked(number)
            assert it.where(number) == [0]
            it.launcher.running(0).fail(number, DeadlineError("no answer"))
            await it.time.settle()
            it.finish(number)
            assert await task == number
            await it.time.advance(RULES.probe_interval_s)
        assert it.reasons(0)[3:] == [Reason.REQUEST, Reason.REQUEST, Reason.REQUEST, Reason.STARTED, Reason.CAUGHT_UP]
        assert it.launcher.running(0).pid == 3


@pytest.mark.fault(4)
@in_a_loop
async def test_a_replica_that_loads_weights_and_answers_no_request_is_condemned_in_the_midst_of_publications() -> None:
    """As in synchronous runs: equal shares for all, then weights for all, step after step."""
    async with scene(2) as it:
        first = it.launcher.running(0)
        num_asked = 0

        async def share(replica: FakeReplica, numbers: Sequence[int]) -> list[int]:
            nonlocal num_asked
            if replica is first:
                num_asked += 1
                raise DeadlineError("no answer")
            return list(numbers)

        for step in range(10):
            assert await it.pool.spread([1, 2, 3, 4], share) == [1, 2, 3, 4]
            await it.pool.bring_up(lambda replica, step=step: replica.load(step))
            await it.time.advance(RULES.probe_interval_s)
        assert (num_asked, len(first.loaded)) == (RULES.failures_to_condemn, RULES.failures_to_condemn - 1)
        assert first.is_killed
        assert it.count("gkd_replica_restarts_total", reason="request") == 1
        assert it.pool.states == {0: State.HEALTHY, 1: State.HEALTHY}


@pytest.mark.fault(4)
@in_a_loop
async def test_requests_of_a_frozen_replica_are_freed_by_its_probes() -> None:
    async with scene(2) as it:
        (task,) = await it.asked(1)
        it.launcher.running(0).is_hung = True
        await it.time.advance(15.0)
        assert it.where(1) == [1]
        it.finish(1)
        assert await task == 1


@in_a_loop
async def test_a_lone_replica_is_asked_again_after_a_back_off_until_the_attempts_are_used_up() -> None:
    async with scene(1, failures_to_condemn=10) as it:
        (task,) = await it.asked(1)
        when = []
        for attempt in range(RULES.infra_attempts):
            when.append(it.time.now)
            assert it.where(1) == [0]
            it.launcher.running(0).fail(1, DeadlineError(f"late {attempt}"))
            await it.time.settle()
            assert it.where(1) == []
            await it.time.advance(2.0**attempt)
        assert when == [0.0, 1.0, 3.0, 7.0]
        with pytest.raises(DeadlineError, match="late 3"):
            await task


@pytest.mark.fault(9)
@in_a_loop
async def test_what_replicas_refuse_is_tried_once_elsewhere_and_raised_as_it_was() -> None:
    async with scene(2) as it:
        (task,) = await it.asked(1)
        it.launcher.running(0).fail(1, RejectedError("too long"))
        await it.time.settle()
        assert it.where(1) == [1]
        last = RejectedError("too long here too")
        it.launcher.running(1).fail(1, last)
        with pytest.raises(RejectedError) as caught:
            await task
        assert caught.value is last
        assert set(it.pool.states.values()) == {State.HEALTHY}
        assert it.count("gkd_requests_retried_total", **{"class": "data"}) == 1


@in_a_loop
async def test_a_cancelled_call_cancels_its_work() -> None:
    async with scene(1) as it:
        (task,) = await it.asked(1)
        task.cancel()
        await it.time.settle()
        assert task.cancelled()
        assert it.launcher.running(0).cancelled == [1]
        assert it.pool.num_outstanding == 0
        assert it.pool.states == {0: State.HEALTHY}


@pytest.mark.fault(35)
@in_a_loop
async def test_a_late_request_is_sent_twice_and_the_first_answer_counts() -> None:
    async with scene(2, hedge_after_s=4.0) as it:
        (task,) = await it.asked(1)
        await it.time.advance(3.9)
        assert it.where(1) == [0]
        await it.time.advance(0.1)
        assert it.where(1) == [0, 1]
        it.launcher.running(1).finish(1)
        assert await task == 1
        await it.time.settle()
        assert it.count("gkd_requests_hedged_total") == 1
        assert it.pool.num_outstanding == 1  # the engine of the first is still at it
        (task,) = await it.asked(2)
        assert it.where(2) == [1]
        it.finish(2)
        assert await task == 2
        it.launcher.running(0).finish(1)
        await it.time.settle()
        assert it.pool.num_outstanding == 0
        assert it.launcher.running(0).cancelled == []
        assert set(it.pool.states.values()) == {State.HEALTHY}


@pytest.mark.fault(4)
@in_a_loop
async def test_a_replica_that_never_finishes_what_others_finish_for_it_is_condemned() -> None:
    async with scene(2, hedge_after_s=4.0) as it:
        victim = it.launcher.running(0)
        for number in range(RULES.failures_to_condemn):
            await it.time.advance(30.0)
            (task,) = await it.asked(number)
            assert it.where(number) == [0]
            await it.time.advance(4.0)
            it.launcher.running(1).finish(number)
            assert await task == number
            victim.fail(number, DeadlineError("no answer within the deadline"))
            await it.time.settle()
        assert Reason.REQUEST in [event.reason for event in it.pool.events if event.to_state is State.DEAD]
        assert victim.is_killed


@in_a_loop
async def test_a_request_is_never_sent_three_times_at_once() -> None:
    async with scene(3, hedge_after_s=4.0) as it:
        (task,) = await it.asked(1)
        await it.time.advance(30.0)
        assert it.where(1) == [0, 1]
        it.launcher.running(0).fail(1, DeadlineError("late"))
        await it.time.advance(30.0)
        assert it.where(1) == [1]
        it.finish(1)
        assert await task == 1


@in_a_loop
async def test_a_hedged_request_survives_the_failure_of_either_copy() -> None:
    async with scene(2, hedge_after_s=4.0) as it:
        for number, failing in ((1, 0), (2, 1)):
            await it.time.advance(30.0)
            (task,) = await it.asked(number)
            await it.time.advance(4.0)
            it.launcher.running(failing).fail(number, DeadlineError("late"))
            await it.time.settle()
            it.launcher.running(1 - failing).finish(number)
            assert await task == number
        assert it.count("gkd_requests_retried_total") == 0


@pytest.mark.fault(6)
@in_a_loop
async def test_a_role_without_replicas_is_lost_after_its_grace() -> None:
    launcher = FakeLauncher({0: [None, *[ResourceError("full")] * 99]})
    async with scene(1, launcher) as it:
        it.launcher.running(0).die()
        (task,) = await it.asked(1)
        await it.time.advance(59.0)
        assert not task.done()
        await it.time.advance(2.0)
        with pytest.raises(RoleLostError, match=r"no sampler is left to sample.*role_loss_grace_s \(60 s\).*0 is dead"):
            await task
        assert it.pool.states == {0: State.DEAD}
        assert it.count("gkd_replica_restarts_total", reason="no_room") > RULES.max_restarts


@pytest.mark.fault(5)
@in_a_loop
async def test_a_crash_loop_retires_its_slot_and_a_role_of_retired_slots_is_lost_at_once() -> None:
    launcher = FakeLauncher({0: [None, *[EngineError("no such model")] * 9]})
    async with scene(1, launcher) as it:
        it.launcher.running(0).die()
        (task,) = await it.asked(1)
        await it.time.advance(1.0 + 2.0)
        assert it.pool.states == {0: State.RETIRED}
        with pytest.raises(RoleLostError, match="max_restarts times"):
            await task
        assert it.launcher.num_starts == 1 + RULES.max_restarts


@in_a_loop
async def test_a_replica_is_killed_before_its_slot_starts_again() -> None:
    async with scene(1) as it:
        it.launcher.hold_kills = True
        it.launcher.running(0).is_alive = False
        await it.asked(1)
        await it.time.advance(10.0)
        assert it.pool.states == {0: State.DEAD}
        assert it.launcher.num_starts == 1
        it.launcher.release()
        await it.time.settle()
        assert it.pool.states == {0: State.HEALTHY}
        it.finish(1)


@pytest.mark.fault(1)
@in_a_loop
async def test_a_new_replica_serves_only_when_it_has_done_the_newest_obligation() -> None:
    async with scene(2) as it:
        await it.pool.bring_up(lambda replica: replica.load(1))
        it.launcher.running(0).die()
        it.launcher.hold_starts = True
        await it.time.advance(16.0)
        await it.pool.bring_up(lambda replica: replica.load(2))  # misses the one that is being started
        assert it.pool.states == {0: State.RESTARTING, 1: State.HEALTHY}
        it.launcher.release()
        await it.time.settle()
        assert it.launcher.running(0).loaded == [2]
        assert it.launcher.running(1).loaded == [1, 2]
        assert it.pool.states[0] is State.HEALTHY


@in_a_loop
async def test_an_obligation_from_before_the_start_is_done_by_the_first_replicas() -> None:
    it = Scene(2)
    await it.pool.bring_up(lambda replica: replica.load(5))
    await it.pool.start()
    assert [replica.loaded for replica in it.pool.serving.values()] == [[5], [5]]
    await it.pool.close()


@pytest.mark.fault(37)
@in_a_loop
async def test_an_obligation_that_comes_during_a_catch_up_is_done_before_the_replica_serves() -> None:
    async with scene(2) as it:
        await it.pool.bring_up(lambda replica: replica.load(1))
        it.launcher.running(0).die()
        it.launcher.hold_starts = True
        await it.time.advance(16.0)
        it.launcher.release()
        await asyncio.sleep(0)
        while it.pool.states[0] is State.RESTARTING:
            await asyncio.sleep(0)
        joining = it.launcher.running(0)
        joining.hold_obligations = True
        await it.time.settle()
        assert it.pool.states[0] is State.STALE
        await it.pool.bring_up(lambda replica: replica.load(2))
        (task,) = await it.asked(7)
        assert it.where(7) == [1]
        joining.release()
        await it.time.settle()
        assert joining.loaded in ([1, 2], [2])
        assert it.pool.states[0] is State.HEALTHY
        it.finish(7)
        await task


@in_a_loop
async def test_a_late_replica_skips_the_obligations_that_were_overtaken() -> None:
    async with scene(2) as it:
        slow = it.launcher.running(0)
        slow.hold_obligations = True
        bringing = [
            asyncio.create_task(it.pool.bring_up(lambda replica, number=number: replica.load(number)))
            for number in (1, 2, 3)
        ]
        await it.time.settle()
        assert it.launcher.running(1).loaded in ([1, 2, 3], [3], [1, 3])
        assert not bringing[0].done()
        slow.release()
        await asyncio.gather(*bringing)
        assert slow.loaded in ([1, 3], [3])


@pytest.mark.fault(13)
@in_a_loop
async def test_a_replica_that_fails_its_obligation_is_replaced_and_the_others_go_on() -> None:
    async with scene(2) as it:
        it.launcher.running(1).obligation_error = WeightsError("digest")
        await it.pool.bring_up(lambda replica: replica.load(1))
        assert it.pool.states == {0: State.HEALTHY, 1: State.DEAD}
        await it.time.advance(1.0)
        assert it.pool.states[1] is State.HEALTHY
        assert it.launcher.running(1).loaded == [1]
        assert it.count("gkd_replica_restarts_total", reason="obligation") == 1


@pytest.mark.fault(13)
@in_a_loop
async def test_a_replica_that_hangs_in_its_obligation_serves_no_more_and_the_others_go_on() -> None:
    async with scene(2) as it:
        late = it.launcher.running(0)
        late.hold_obligations = True
        bringing = asyncio.create_task(it.pool.bring_up(lambda replica: replica.load(1)))
        await it.time.advance(59.0)
        assert not bringing.done()
        await it.time.advance(1.0)
        await bringing
        assert it.pool.states == {0: State.STALE, 1: State.HEALTHY}
        assert it.reasons(0)[-1] is Reason.LATE
        await it.pool.bring_up(lambda replica: replica.load(2))
        tasks = await it.asked(7, 8)
        assert it.where(7) == it.where(8) == [1]
        late.release()
        await it.time.settle()
        assert late.loaded == [1, 2], "it serves again with the newest weights alone"
        assert it.pool.states == {0: State.HEALTHY, 1: State.HEALTHY}
        tasks += await it.asked(9)
        assert it.where(9) == [0]
        for number in (7, 8, 9):
            it.finish(number)
        await asyncio.gather(*tasks)


@pytest.mark.fault(13)
@in_a_loop
async def test_a_late_replica_that_fails_in_the_end_is_replaced() -> None:
    async with scene(2) as it:
        late = it.launcher.running(0)
        late.hold_obligations = True
        late.obligation_error = DeadlineError("no answer")
        bringing = asyncio.create_task(it.pool.bring_up(lambda replica: replica.load(1)))
        await it.time.advance(60.0)
        await bringing
        late.release()
        await it.time.advance(1.0)
        assert late.is_killed
        assert it.launcher.running(0).loaded == [1]
        assert it.pool.states[0] is State.HEALTHY


@in_a_loop
async def test_where_all_are_late_they_are_waited_for() -> None:
    async with scene(2) as it:
        replicas = [it.launcher.running(slot) for slot in (0, 1)]
        for each in replicas:
            each.hold_obligations = True
        bringing = asyncio.create_task(it.pool.bring_up(lambda replica: replica.load(1)))
        await it.time.advance(100.0)
        assert not bringing.done()
        assert it.pool.states == {0: State.HEALTHY, 1: State.HEALTHY}
        replicas[1].release()
        await bringing
        assert it.pool.states == {0: State.STALE, 1: State.HEALTHY}
        replicas[0].release()


@in_a_loop
async def test_nobody_loads_for_a_bring_up_that_was_given_up() -> None:
    async with scene(1) as it:
        it.launcher.running(0).hold_obligations = True
        bringing = asyncio.create_task(it.pool.bring_up(lambda replica: replica.load(1)))
        await it.time.settle()
        bringing.cancel()
        await it.time.settle()
        (_, gate), *_ = it.launcher.running(0).held
        assert gate.cancelled()


@in_a_loop
async def test_the_oldest_changes_of_state_are_forgotten() -> None:
    async with scene(1) as it:
        for number in range(1, MAX_EVENTS // 5 + 1):
            it.pool.set_target(2)
            await it.time.settle()
            it.pool.set_target(1)
            await it.time.settle()
            assert len(it.pool.events) == min(3 + 5 * number, MAX_EVENTS)
        assert {event.slot for event in it.pool.events} == {1}, "those of the first start are gone"


@pytest.mark.fault(38)
@in_a_loop
async def test_more_replicas_catch_up_before_they_serve() -> None:
    async with scene(1) as it:
        await it.pool.bring_up(lambda replica: replica.load(1))
        it.pool.set_target(3)
        await it.time.settle()
        assert [replica.slot for replica in it.pool.serving.values()] == [0, 1, 2]
        assert [replica.loaded for replica in it.pool.serving.values()] == [[1]] * 3


@pytest.mark.fault(38)
@in_a_loop
async def test_fewer_replicas_finish_what_they_have_and_get_no_more() -> None:
    async with scene(2) as it:
        tasks = await it.asked(1, 2)
        it.pool.set_target(1)
        tasks += await it.asked(3)
        assert it.where(2) == [1]
        assert it.where(3) == [0]
        assert it.pool.states[1] is State.DRAINING
        it.finish(2)
        await it.time.settle()
        assert it.pool.states == {0: State.HEALTHY}
        assert it.launcher.running(1).is_killed
        it.finish(1)
        it.finish(3)
        assert [await task for task in tasks] == [1, 2, 3]


@pytest.mark.fault(38)
@in_a_loop
async def test_the_last_replica_that_serves_is_not_scaled_away() -> None:
    """Slots are numbered, and those that stay may be the ones that do not serve."""
    launcher = FakeLauncher({0: [None, *[EngineError("no such model")] * 9]})
    async with scene(2, launcher) as it:
        it.launcher.running(0).die()
        await it.time.advance(5.0)
        tasks = await it.asked(1)
        await it.time.advance(30.0)
        assert it.pool.states == {0: State.RETIRED, 1: State.HEALTHY}
        assert list(it.pool.serving) == [1], "it is named by its slot"
        it.pool.set_target(1)
        await it.time.advance(30.0)
        tasks += await it.asked(2)
        assert it.where(1) == it.where(2) == [1]
        for number in (1, 2):
            it.finish(number)
        assert [await task for task in tasks] == [1, 2]


@pytest.mark.fault(38)
@in_a_loop
async def test_a_retired_slot_is_tried_anew_when_somebody_asks_for_it() -> None:
    launcher = FakeLauncher({0: [None, *[EngineError("no such model")] * 9]})
    async with scene(2, launcher) as it:
        it.launcher.running(0).die()
        await it.time.advance(60.0)
        assert it.pool.states == {0: State.RETIRED, 1: State.HEALTHY}
        it.launcher.errors[0].clear()
        it.pool.set_target(3)
        await it.time.advance(10.0)
        assert it.pool.states == {0: State.HEALTHY, 1: State.HEALTHY, 2: State.HEALTHY}


@pytest.mark.fault(38)
@in_a_loop
async def test_a_replica_too_many_is_drained_once_one_that_stays_serves() -> None:
    async with scene(2) as it:
        it.launcher.hold_starts = True
        (task,) = await it.asked(1)
        it.launcher.running(0).die()
        await it.time.advance(10.0)
        it.finish(1)
        assert await task == 1
        assert it.pool.states == {0: State.RESTARTING, 1: State.HEALTHY}
        it.pool.set_target(1)
        await it.time.advance(10.0)
        assert it.pool.states == {0: State.RESTARTING, 1: State.HEALTHY}
        it.launcher.release()
        await it.time.advance(10.0)
        assert it.pool.states == {0: State.HEALTHY}


@in_a_loop
async def test_what_a_drained_replica_does_not_finish_goes_elsewhere_and_costs_no_attempt() -> None:
    async with scene(2, infra_attempts=1) as it:
        tasks = await it.asked(1, 2)
        it.pool.set_target(1)
        await it.time.advance(19.9)
        assert it.where(2) == [1]
        await it.time.advance(0.1)
        assert it.where(2) == [0]
        it.finish(1)
        it.finish(2)
        assert [await task for task in tasks] == [1, 2]
        assert it.reasons(1)[-2:] == [Reason.SCALED, Reason.SCALED]


@in_a_loop
async def test_a_draining_replica_that_is_wanted_again_catches_up_and_serves() -> None:
    async with scene(2) as it:
        tasks = await it.asked(1, 2)
        it.pool.set_target(1)
        await it.pool.bring_up(lambda replica: replica.load(1))
        it.pool.set_target(2)
        await it.time.settle()
        assert it.pool.states == {0: State.HEALTHY, 1: State.HEALTHY}
        assert it.launcher.running(1).loaded == [1]
        assert it.launcher.num_starts == 2
        it.finish(1)
        it.finish(2)
        assert [await task for task in tasks] == [1, 2]


@in_a_loop
async def test_a_start_that_is_no_longer_wanted_is_given_up() -> None:
    async with scene(1) as it:
        it.launcher.hold_starts = True
        it.pool.set_target(2)
        await it.time.settle()
        assert it.pool.states[1] is State.RESTARTING
        it.pool.set_target(1)
        await it.time.settle()
        assert it.pool.states == {0: State.HEALTHY}
        assert len(it.launcher.replicas) == 1


@pytest.mark.fault(14)
@in_a_loop
async def test_a_lost_node_costs_no_restart_while_there_is_no_room_and_comes_back() -> None:
    launcher = FakeLauncher({1: [None, *[ResourceError("full")] * 6]})
    async with scene(2, launcher) as it:
        it.launcher.running(1).die()
        await it.time.advance(15.0 + 1 + 2 + 4 + 8 + 8 + 8)
        assert it.pool.states[1] is State.DEAD
        await it.time.advance(8.0)
        assert it.pool.states == {0: State.HEALTHY, 1: State.HEALTHY}


@in_a_loop
async def test_a_first_start_that_fails_leaves_nothing_running() -> None:
    error = EngineError("no such model")
    it = Scene(3, FakeLauncher({1: [error]}))
    with pytest.raises(EngineError) as caught:
        await it.pool.start()
    assert caught.value is error
    assert len(it.launcher.replicas) == 2
    assert it.launcher.left == []
    assert it.pool.states == {}


@in_a_loop
async def test_shares_are_contiguous_in_slot_order_and_a_failed_one_goes_elsewhere() -> None:
    async with scene(2) as it:

        async def serve_all(replica: FakeReplica, share: list[int]) -> list[int]:
            return [await replica.serve(number) for number in share]

        spreading = asyncio.create_task(it.pool.spread([1, 2, 3, 4, 5], serve_all))
        await it.time.settle()
        assert [it.where(1), it.where(3)] == [[0], [1]]
        it.launcher.running(0).fail(1, DeadlineError("late"))
        await it.time.settle()
        assert it.where(1) == [1]
        for number in (1, 2, 3, 4, 5):
            it.finish(number)
            await it.time.settle()
        assert await spreading == [1, 2, 3, 4, 5]


@in_a_loop
async def test_serving_replicas_are_closed_and_all_are_killed() -> None:
    async with scene(2) as it:
        replicas = list(it.launcher.replicas)
    assert [(each.closed, each.is_killed) for each in replicas] == [(True, True)] * 2


@in_a_loop
async def test_pools_of_one_role_are_counted_together() -> None:
    metrics = FakeMetrics()
    census = Census(metrics)
    pools = [Pool(f"teacher {name}", FakeLauncher(), RULES, target=2, metrics=census) for name in ("math", "law")]
    for pool in pools:
        await pool.start()
    gauges = {(name, labels.get("state")): value for _, name, value, labels in metrics.calls}
    assert gauges["gkd_replicas", "healthy"] == 4
    assert gauges["gkd_replicas", "dead"] == 0
    assert gauges["gkd_replicas_target", None] == 4
    for _, name, _, labels in metrics.calls:
        definition = definition_of(name)
        assert labels.keys() == definition.labels.keys()
        assert all(value in definition.labels[label] for label, value in labels.items())
    for pool in pools:
        await pool.close()


def test_a_target_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 sampler"):
        Pool("sampler", FakeLauncher(), RULES, target=0)


@in_a_loop
async def test_a_slot_tells_what_its_start_waits_for_and_what_its_last_one_ended_with() -> None:
    launcher = FakeLauncher({1: [ResourceError("no room for it")]})
    async with scene(1, launcher) as it:
        launcher.hold_starts = True
        launcher.waits[1] = "CPU: 2 wanted, 0 free"
        it.pool.set_target(2)
        await it.time.settle()
        assert [(each.state, each.problem) for each in it.pool.slots] == [
            ("healthy", ""),
            ("restarting", "CPU: 2 wanted, 0 free"),
        ]
        launcher.release()
        await it.time.settle()
        assert [(each.state, each.problem) for each in it.pool.slots][1] == ("dead", "no room for it")
        await it.time.advance(10.0)
        assert [(each.state, each.problem) for each in it.pool.slots] == [("healthy", "")] * 2


@in_a_loop
async def test_a_replica_is_busy_while_it_has_anything_in_hand_and_counts_once() -> None:
    """Slot 0 has requests 1 and 3 from 0 to 3 s and from 0 to 5 s, slot 1 has request 2 from 0 to 4 s."""
    async with scene(2) as it:
        tasks = await it.asked(1, 2, 3)
        await it.time.advance(3.0)
        it.finish(1)
        await it.time.settle()
        assert it.pool.busy_s == 6.0
        await it.time.advance(1.0)
        it.finish(2)
        await it.time.settle()
        assert it.pool.busy_s == 8.0
        await it.time.advance(1.0)
        it.finish(3)
        await it.time.settle()
        await it.time.advance(7.0)
        assert it.pool.busy_s == 9.0
        assert [await task for task in tasks] == [1, 2, 3]


@in_a_loop
async def test_a_replica_that_died_is_busy_no_more() -> None:
    async with scene(2) as it:
        tasks = await it.asked(1)
        await it.time.advance(1.0)
        it.launcher.running(0).is_alive = False
        it.launcher.running(0).fail(1, EngineError("sampler 0 died"))
        await it.time.settle()
        it.finish(1)
        await asyncio.gather(*tasks)
        await it.time.advance(3.0)
        assert it.pool.busy_s == 1.0
