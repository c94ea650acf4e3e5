"""Requests that wait until a replica has room: in which order, for whom, and until when."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.errors import DeadlineError, RejectedError, ResourceError, RoleLostError
from gkd_dist.supervision.health import State
from gkd_dist.supervision.pool import Pool
from gkd_dist.supervision.roster import Roster
from gkd_dist.testing.replicas import FakeLauncher, FakeReplica
from gkd_dist.testing.timing import FakeTime
from tests.pools import RULES, Scene, in_a_loop, scene


async def finish_all(it: Scene) -> None:
    """In the order in which they are given out, until nobody is left."""
    while any(each.pending for each in it.launcher.left):
        for replica in it.launcher.left:
            for number in list(replica.pending):
                replica.finish(number)
        await it.time.settle()


@in_a_loop
async def test_what_is_above_the_bound_waits_and_goes_in_order_to_whoever_has_room() -> None:
    async with scene(2, max_ongoing=2) as it:
        tasks = [it.ask(number) for number in range(1, 8)]
        await it.time.settle()
        assert [it.where(number) for number in range(1, 8)] == [[0], [1], [0], [1], [], [], []]
        assert (it.pool.num_outstanding, it.pool.num_waiting) == (4, 3)
        it.finish(4)
        await it.time.settle()
        assert (it.where(5), it.where(6)) == ([1], [])
        it.finish(1)
        await it.time.settle()
        assert (it.where(6), it.where(7)) == ([0], [])
        await finish_all(it)
        assert [await task for task in tasks] == list(range(1, 8))
        assert [each.asked for each in it.launcher.replicas] == [[1, 3, 6, 7], [2, 4, 5]]
        assert (it.pool.num_outstanding, it.pool.num_waiting) == (0, 0)


@pytest.mark.fault(38)
@in_a_loop
async def test_a_replica_that_joins_takes_over_what_waits_at_once() -> None:
    async with scene(1, max_ongoing=2) as it:
        tasks = [it.ask(number) for number in range(1, 7)]
        await it.time.settle()
        it.pool.set_target(3)
        await it.time.settle()
        assert [it.where(number) for number in range(1, 7)] == [[0], [0], [1], [2], [1], [2]]
        await finish_all(it)
        await asyncio.gather(*tasks)


@pytest.mark.fault(1)
@in_a_loop
async def test_what_a_dead_replica_had_in_hand_goes_before_all_that_waits() -> None:
    async with scene(2, max_ongoing=2) as it:
        tasks = [it.ask(number) for number in range(1, 8)]
        await it.time.settle()
        it.launcher.hold_starts = True
        it.launcher.running(0).die()
        await it.time.settle()
        assert it.pool.num_waiting == 5
        survivor = it.launcher.running(1)
        await finish_all(it)
        assert survivor.asked == [2, 4, 1, 3, 5, 6, 7]
        it.launcher.release()
        await asyncio.gather(*tasks)


@pytest.mark.fault(38)
@in_a_loop
async def test_what_a_drained_replica_gives_back_goes_before_all_that_waits_and_costs_no_attempt() -> None:
    async with scene(2, max_ongoing=2, infra_attempts=1) as it:
        tasks = [it.ask(number) for number in range(1, 7)]
        await it.time.settle()
        it.pool.set_target(1)
        await it.time.advance(RULES.drain_timeout_s)
        assert it.pool.num_waiting == 4
        await finish_all(it)
        assert it.launcher.running(0).asked == [1, 3, 2, 4, 5, 6]
        await asyncio.gather(*tasks)


@in_a_loop
async def test_a_request_that_failed_waits_for_somebody_else_and_lets_others_pass_meanwhile() -> None:
    async with scene(2, max_ongoing=1) as it:
        tasks = [it.ask(number) for number in range(1, 5)]
        await it.time.settle()
        it.launcher.running(0).fail(1, RejectedError("too long"))
        await it.time.settle()
        assert [it.where(number) for number in (1, 2, 3, 4)] == [[], [1], [0], []]
        it.finish(2)
        await it.time.settle()
        assert [it.where(number) for number in (1, 3, 4)] == [[1], [0], []], "it stands before the fourth"
        await finish_all(it)
        await asyncio.gather(*tasks)


@in_a_loop
async def test_a_request_that_all_have_failed_lets_others_pass_until_its_pause_is_over() -> None:
    async with scene(1, max_ongoing=1, failures_to_condemn=10) as it:
        tasks = [it.ask(number) for number in (1, 2, 3)]
        await it.time.settle()
        it.launcher.running(0).fail(1, DeadlineError("late"))
        await it.time.settle()
        assert it.where(2) == [0]
        it.finish(2)
        await it.time.settle()
        assert it.where(3) == [0]
        await it.time.advance(RULES.restart_backoff_s)
        assert it.where(1) == []
        it.finish(3)
        await it.time.settle()
        assert it.where(1) == [0]
        it.finish(1)
        await asyncio.gather(*tasks)


@in_a_loop
async def test_a_suspect_replica_that_it_is_time_to_try_takes_one_that_waits() -> None:
    async with scene(2, max_ongoing=2) as it:
        tasks = [it.ask(number) for number in range(1, 8)]
        await it.time.settle()
        for number in (1, 3):
            it.launcher.running(0).fail(number, DeadlineError("late"))
        await it.time.settle()
        assert it.pool.states[0] is State.SUSPECT
        assert (it.where(5), it.pool.num_waiting) == ([], 5), "the healthy one is full"
        await it.time.advance(RULES.probe_interval_s)
        assert (it.where(5), it.pool.num_waiting) == ([0], 4), "one alone"
        await finish_all(it)
        await asyncio.gather(*tasks)


@pytest.mark.fault(35)
@in_a_loop
async def test_the_second_copy_of_a_late_request_waits_for_room_and_goes_before_what_came_later() -> None:
    async with scene(2, max_ongoing=1, hedge_after_s=4.0) as it:
        tasks = [it.ask(number) for number in (1, 2, 3)]
        await it.time.advance(4.0)
        assert [it.where(number) for number in (1, 2, 3)] == [[0], [1], []]
        assert it.pool.num_waiting == 3
        it.finish(2)
        await it.time.settle()
        assert [it.where(number) for number in (1, 3)] == [[0, 1], []]
        it.launcher.running(1).finish(1)
        await it.time.settle()
        assert await tasks[0] == 1
        assert it.where(3) == [1]
        assert it.pool.num_waiting == 0, "the second copies of what is answered wait no more"
        it.finish(1)
        it.finish(3)
        await asyncio.gather(*tasks)
        assert it.count("gkd_requests_hedged_total") == 1


@pytest.mark.fault(35)
@in_a_loop
async def test_a_second_copy_that_is_begun_as_the_first_answers_leaves_nothing_behind() -> None:
    for turns in range(12):
        async with scene(2, max_ongoing=1, hedge_after_s=4.0) as it:
            tasks = [it.ask(number) for number in (1, 2)]
            await it.time.advance(4.0)
            it.finish(2)
            for _ in range(turns):
                await asyncio.sleep(0)
            it.launcher.running(0).finish(1)
            await it.time.settle()
            assert [await task for task in tasks] == [1, 2]
            for replica in it.launcher.left:
                for number in list(replica.pending):
                    replica.finish(number)
            await it.time.settle()
            assert (it.pool.num_outstanding, it.pool.num_waiting) == (0, 0)


@in_a_loop
async def test_who_is_cancelled_while_it_waits_or_in_any_turn_of_being_chosen_keeps_nobody_waiting() -> None:
    for turns in range(12):
        async with scene(1, max_ongoing=1) as it:
            tasks = [it.ask(number) for number in (1, 2, 3)]
            await it.time.settle()
            it.finish(1)
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[1].cancel()
            await it.time.settle()
            assert tasks[1].cancelled()
            assert it.where(3) == [0], f"{turns} turns of the loop after a place was free"
            assert (it.pool.num_outstanding, it.pool.num_waiting) == (1, 0)
            it.finish(3)
            assert await tasks[2] == 3


@pytest.mark.fault(6)
@in_a_loop
async def test_all_that_wait_are_told_when_the_role_is_lost() -> None:
    async with scene(1, FakeLauncher({0: [None, *[ResourceError("full")] * 99]}), max_ongoing=1) as it:
        tasks = [it.ask(number) for number in (1, 2, 3)]
        await it.time.advance(100.0)  # longer than the grace, while it is there
        it.launcher.running(0).die()
        lost_at = it.time.now
        await it.time.advance(RULES.role_loss_grace_s - 1)
        assert it.time.now < lost_at + RULES.role_loss_grace_s and not any(task.done() for task in tasks)
        await it.time.advance(20.0)
        for task in tasks:
            with pytest.raises(RoleLostError, match="no sampler is left to sample"):
                await task
        assert it.pool.num_waiting == 0


@in_a_loop
async def test_a_share_goes_to_somebody_else_where_its_replica_has_no_room() -> None:
    async with scene(2, max_ongoing=1) as it:
        tasks = [it.ask(1)]
        await it.time.settle()

        async def serve(replica: FakeReplica, share: list[int]) -> list[int]:
            return [await replica.serve(number) for number in share]

        spreading = asyncio.create_task(it.pool.spread([2, 3], serve))
        await it.time.settle()
        assert (it.where(2), it.where(3)) == ([1], []), "the first one goes first"
        it.finish(1)
        await it.time.settle()
        assert it.where(3) == [0]
        it.finish(2)
        it.finish(3)
        assert await spreading == [2, 3]
        await asyncio.gather(*tasks)


@in_a_loop
async def test_work_that_raises_before_it_waits_for_anything_is_a_failure_of_its_request_alone() -> None:
    async with scene(1, max_ongoing=1) as it:
        (first,) = await it.asked(1)

        def broken(replica: FakeReplica) -> "asyncio.Future[int]":
            raise TypeError("a mistake")

        second, third = asyncio.create_task(it.pool.call(broken, "sample")), it.ask(3)
        await it.time.settle()
        it.finish(1)
        await it.time.settle()
        with pytest.raises(TypeError, match="a mistake"):
            await second
        assert await first == 1 and it.where(3) == [0]
        it.finish(3)
        await third


@in_a_loop
async def test_thousands_that_fail_together_are_not_gone_through_for_each_that_has_room() -> None:
    """Choices made, not time: a few for each request, however many wait."""
    num_choices = 0

    class Counting(Roster[FakeReplica]):
        def choose(self, avoid=()):  # type: ignore[no-untyped-def]
            nonlocal num_choices
            num_choices += 1
            return super().choose(avoid)

    async with scene(30, max_ongoing=8, failures_to_condemn=99) as it:
        it.pool._roster.__class__ = Counting
        tasks = [it.ask(number) for number in range(600)]
        await it.time.settle()
        assert it.pool.num_waiting == 600 - 240
        for replica in it.launcher.left[:5]:
            for number in list(replica.pending):
                replica.fail(number, DeadlineError("late"))
        await it.time.settle()
        assert it.pool.num_waiting == 600 - 200
        await finish_all(it)
        assert await asyncio.gather(*tasks) == list(range(600))
        assert num_choices < 8 * 640


ACTS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "finish", "cancel", "refuse"]), st.integers(0, 99)), max_size=60
)


@given(acts=ACTS, max_ongoing=st.integers(1, 3), num_replicas=st.integers(1, 3))
@settings(max_examples=60)
def test_nothing_is_lost_or_done_twice_the_bound_holds_and_first_come_is_first_served(
    acts: list[tuple[str, int]], max_ongoing: int, num_replicas: int
) -> None:
    begun: list[int] = []
    """For the first time, in that order."""

    class Noting(FakeReplica):
        async def serve(self, number: int) -> int:
            if number not in begun:
                begun.append(number)
            return await super().serve(number)

    async def turn() -> None:
        replicas, time = [Noting(slot, slot + 1) for slot in range(num_replicas)], FakeTime()
        pool = Pool.of(replicas, RULES.model_copy(update={"data_attempts": 3}), max_ongoing=max_ongoing)
        tasks: dict[int, asyncio.Task[int]] = {}
        refused: set[int] = set()

        async def check() -> None:
            await time.settle()
            pending = [number for replica in replicas for number in replica.pending]
            waiting = [number for number, task in tasks.items() if not task.done() and number not in pending]
            assert len(pending) == len(set(pending)) == pool.num_outstanding
            assert all(len(replica.pending) <= max_ongoing for replica in replicas)
            assert len(waiting) == pool.num_waiting
            for replica in replicas:
                assert len(replica.pending) == max_ongoing or set(waiting) <= set(replica.asked)
            never = [number for number in tasks if number not in begun and not tasks[number].cancelled()]
            assert begun == sorted(begun) and (not never or max(begun, default=-1) < never[0])

        for act, which in acts:
            pending = sorted((number, slot) for slot, replica in enumerate(replicas) for number in replica.pending)
            open_ones = [number for number, task in tasks.items() if not task.done()]
            if act == "ask":
                number = len(tasks)
                tasks[number] = asyncio.create_task(pool.call(lambda each, number=number: each.serve(number), "work"))
            elif act == "cancel" and open_ones:
                tasks[open_ones[which % len(open_ones)]].cancel()
            elif pending:
                number, slot = pending[which % len(pending)]
                if act == "finish":
                    replicas[slot].finish(number)
                else:
                    refused.add(number)
                    replicas[slot].fail(number, RejectedError("no"))
            await check()
        while any(replica.pending for replica in replicas):
            for replica in replicas:
                for number in list(replica.pending):
                    replica.finish(number)
            await check()
        for number, task in tasks.items():
            assert task.cancelled() or (task.exception() is not None and number in refused) or task.result() == number
        assert (pool.num_outstanding, pool.num_waiting) == (0, 0)

    asyncio.run(asyncio.wait_for(turn(), timeout=60))
