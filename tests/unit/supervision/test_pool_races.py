"""What happens between two moments of a pool: requests of one turn of the loop, newcomers, answers after the end."""

import asyncio
import logging

import pytest

from gkd_dist.errors import DeadlineError, EngineError, RejectedError, RoleLostError
from gkd_dist.supervision.health import State
from gkd_dist.testing.replicas import FakeReplica
from tests.pools import RULES, Scene, in_a_loop, scene


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "asking again" in each.getMessage()]


@pytest.mark.parametrize("hedge_after_s", [None, 4.0])
def test_requests_of_one_moment_are_spread_over_all_replicas(hedge_after_s: float | None) -> None:
    @in_a_loop
    async def check() -> None:
        async with scene(4, hedge_after_s=hedge_after_s) as it:
            tasks = [it.ask(number) for number in range(8)]
            await it.time.settle()
            assert sorted(it.where(number)[0] for number in range(8)) == [0, 0, 1, 1, 2, 2, 3, 3]
            for number in range(8):
                it.finish(number)
            assert await asyncio.gather(*tasks) == list(range(8))

    check()


@in_a_loop
async def test_a_suspect_replica_is_tried_with_one_request_of_a_moment_not_with_all() -> None:
    async with scene(2, hedge_after_s=4.0) as it:
        (task,) = await it.asked(0)
        it.launcher.running(0).fail(0, DeadlineError("late"))
        await it.time.settle()
        it.finish(0)
        assert await task == 0
        await it.time.advance(30.0)
        tasks = [it.ask(number) for number in (1, 2, 3)]
        await it.time.settle()
        assert sorted(it.where(number)[0] for number in (1, 2, 3)) == [0, 1, 1]
        for number in (1, 2, 3):
            it.finish(number)
        await asyncio.gather(*tasks)


@in_a_loop
async def test_a_late_request_is_sent_to_whoever_comes_later_where_nobody_else_serves_at_first() -> None:
    async with scene(1, hedge_after_s=4.0) as it:
        (task,) = await it.asked(1)
        await it.time.advance(10.0)
        assert it.where(1) == [0]
        it.pool.set_target(2)
        await it.time.settle()
        assert it.where(1) == [0, 1]
        it.launcher.running(1).finish(1)
        assert await task == 1
        it.launcher.running(0).finish(1)


@in_a_loop
async def test_the_answer_of_a_replica_that_was_ended_meanwhile_is_not_taken_a_second_time() -> None:
    answers: list[tuple[int, int]] = []

    async with scene(2) as it:

        async def work(replica: FakeReplica) -> int:
            answer = await replica.serve(1)
            answers.append((replica.pid, answer))
            return answer

        task = asyncio.create_task(it.pool.call(work, "sample"))
        await it.time.settle()
        first = it.launcher.running(0)
        gate = first.pending[1]
        first.is_hung = True
        await it.time.advance(15.0)  # its probes end it, and its request goes elsewhere
        assert it.where(1) == [1]
        assert gate.cancelled(), "nobody waits for the first answer any more"
        await it.time.advance(1.0)
        it.finish(1)
        assert await task == 1
        assert answers == [(2, 1)]


@in_a_loop
async def test_an_answer_and_the_end_of_its_replica_in_one_moment_count_once() -> None:
    async with scene(1) as it:
        (task,) = await it.asked(1)
        it.launcher.running(0).finish(1)
        it.pool.set_target(1)
        it.launcher.running(0).is_hung = True
        await it.time.advance(20.0)
        assert await task == 1
        assert it.launcher.replicas[0].asked == [1]
        assert all(1 not in each.asked for each in it.launcher.replicas[1:])


@in_a_loop
async def test_a_newcomer_with_the_newest_weights_frees_a_run_from_one_that_hangs() -> None:
    """The only sampler hangs in its load; another one comes long after the limit, and the run goes on with it."""
    async with scene(1, catch_up_timeout_s=10.0) as it:
        late = it.launcher.running(0)
        late.hold_obligations = True
        bringing = asyncio.create_task(it.pool.bring_up(lambda replica: replica.load(1)))
        await it.time.advance(50.0)
        assert not bringing.done(), "nobody has the weights"
        it.pool.set_target(2)
        await it.time.settle()
        assert bringing.done()
        assert it.pool.states == {0: State.STALE, 1: State.HEALTHY}
        late.release()
        await it.time.settle()
        assert it.pool.states == {0: State.HEALTHY, 1: State.HEALTHY}


@in_a_loop
async def test_a_replica_that_is_drained_and_taken_back_during_a_load_serves_with_the_newest_weights() -> None:
    async with scene(2) as it:
        second = it.launcher.running(1)
        second.hold_obligations = True
        (task, other) = await it.asked(1, 2)
        bringing = asyncio.create_task(it.pool.bring_up(lambda replica: replica.load(1)))
        await it.time.settle()
        it.pool.set_target(1)
        await it.time.settle()
        assert it.pool.states[1] is State.DRAINING  # it still has a request
        it.pool.set_target(2)
        await it.time.settle()
        assert it.pool.states[1] is State.STALE
        second.release()
        await bringing
        await it.pool.bring_up(lambda replica: replica.load(2))
        await it.time.settle()
        assert it.pool.states[1] is State.HEALTHY
        assert second.loaded == [1, 2]
        for number in (1, 2):
            it.finish(number)
        assert [await task, await other] == [1, 2]


@in_a_loop
async def test_what_is_only_required_later_does_not_go_back_behind_an_obligation_that_ends_then() -> None:
    async with scene(2) as it:
        tasks = await it.asked(1, 2)
        for each in it.launcher.left:
            each.hold_obligations = True
        bringing = asyncio.create_task(it.pool.bring_up(lambda replica: replica.load(1)))
        await it.time.settle()
        it.pool.require(lambda replica: replica.load(2), it.launcher.left)
        for each in it.launcher.left:
            each.release()
        await bringing
        it.pool.set_target(1)
        await it.time.settle()
        assert it.pool.states[1] is State.DRAINING
        it.pool.set_target(3)
        await it.time.settle()
        assert set(it.pool.states.values()) == {State.HEALTHY}
        assert [each.loaded for each in it.launcher.replicas] == [[1], [1], [2]], "who serves need not do the second"
        for number in (1, 2):
            it.finish(number)
        await asyncio.gather(*tasks)


@in_a_loop
async def test_who_joined_before_something_was_required_and_has_not_done_it_serves_no_more_until_it_has() -> None:
    """A scaled one, and one that came in the place of one that had done it."""
    async with scene(2) as it:
        done_by = list(it.pool.serving.values())
        it.pool.set_target(3)
        it.launcher.running(0).die()
        await it.time.advance(RULES.probe_interval_s * RULES.failures_to_condemn + RULES.restart_backoff_s)
        assert set(it.pool.states.values()) == {State.HEALTHY} and len(it.launcher.replicas) == 4
        for each in it.launcher.left:
            each.hold_obligations = True
        it.pool.require(lambda replica: replica.load(1), done_by)
        assert list(it.pool.serving) == [1]
        await it.time.settle()
        for each in it.launcher.left:
            each.release()
        await it.time.settle()
        assert list(it.pool.serving) == [0, 1, 2]
        assert [it.launcher.running(slot).loaded for slot in range(3)] == [[1], [], [1]]


@in_a_loop
async def test_a_pool_that_closes_sends_no_more_requests_to_what_it_closes() -> None:
    it = Scene(2)
    await it.pool.start()
    (task,) = await it.asked(1)
    closing = asyncio.create_task(it.pool.close())
    with pytest.raises(RoleLostError):
        await task
    await closing
    assert [each.asked for each in it.launcher.replicas] == [[1], []]


def test_a_dead_replica_is_blamed_once_for_all_it_had_in_hand(caplog: pytest.LogCaptureFixture) -> None:
    @in_a_loop
    async def check() -> None:
        async with scene(2) as it:
            tasks = await it.asked(*range(12))
            it.launcher.running(0).die()
            await it.time.settle()
            assert said(caplog) == ["sampler 0 did not sample (pid 1 died); asking again"]
            for number in range(12):
                it.finish(number)
            await asyncio.gather(*tasks)
            await it.time.advance(1.0)
            tasks = await it.asked(12, 13)
            it.launcher.running(0).fail(12, EngineError("another one"))  # its replacement
            await it.time.settle()
            assert said(caplog)[1:] == ["sampler 0 did not sample (another one); asking again"]
            for number in (12, 13):
                it.finish(number)
            await asyncio.gather(*tasks)

    with caplog.at_level(logging.WARNING):
        check()


def test_a_replica_is_blamed_again_once_it_has_answered(caplog: pytest.LogCaptureFixture) -> None:
    @in_a_loop
    async def check() -> None:
        async with scene(1, failures_to_condemn=10) as it:
            for number in (1, 2):
                (task,) = await it.asked(number)
                for _ in range(2):
                    it.launcher.running(0).fail(number, DeadlineError("late"))
                    await it.time.advance(10.0)
                it.finish(number)
                assert await task == number

    with caplog.at_level(logging.WARNING):
        check()
    assert said(caplog) == ["sampler 0 did not sample (late); asking again"] * 2


def test_what_is_refused_is_said_each_time(caplog: pytest.LogCaptureFixture) -> None:
    @in_a_loop
    async def check() -> None:
        async with scene(2) as it:
            for number in (1, 2):
                (task,) = await it.asked(number)
                it.launcher.running(0).fail(number, RejectedError(f"{number} is too long"))
                await it.time.settle()
                it.finish(number)
                await task

    with caplog.at_level(logging.WARNING):
        check()
    assert said(caplog) == [f"sampler 0 did not sample ({number} is too long); asking again" for number in (1, 2)]


def test_of_two_copies_the_one_that_failed_last_is_blamed(caplog: pytest.LogCaptureFixture) -> None:
    @in_a_loop
    async def check() -> None:
        async with scene(2, hedge_after_s=4.0) as it:
            (task,) = await it.asked(1)
            await it.time.advance(4.0)
            it.launcher.running(0).fail(1, DeadlineError("late"))
            await it.time.settle()
            it.launcher.running(1).fail(1, DeadlineError("late too"))
            await it.time.advance(10.0)
            it.finish(1)
            await task

    with caplog.at_level(logging.WARNING):
        check()
    assert said(caplog) == ["sampler 1 did not sample (late too); asking again"]
