"""The thread of blocking work: order, cancellation, closing, and that it never outlives its process."""

import asyncio
import subprocess
import sys
import threading

import pytest

from gkd_dist.serial import SerialThread, is_at_work


def test_calls_run_one_at_a_time_in_their_order_on_one_thread() -> None:
    seen: list[tuple[int, str]] = []

    async def work() -> list[int]:
        thread = SerialThread("mine")
        calls = [
            thread.run(lambda number=number: seen.append((number, threading.current_thread().name)) or number)
            for number in range(20)
        ]
        results = await asyncio.gather(*calls)
        thread.close()
        return results

    assert asyncio.run(work()) == list(range(20))
    assert seen == [(number, "mine") for number in range(20)]


def test_what_a_call_raises_arrives_and_later_calls_still_run() -> None:
    async def work() -> int:
        thread = SerialThread("mine")
        with pytest.raises(ZeroDivisionError):
            await thread.run(lambda: 1 // 0)
        return await thread.run(lambda: 7)

    assert asyncio.run(work()) == 7


def test_a_cancelled_call_that_has_not_begun_never_does() -> None:
    release, ran = threading.Event(), []

    async def work() -> None:
        thread = SerialThread("mine")
        first = asyncio.ensure_future(thread.run(lambda: release.wait(5)))
        second = asyncio.ensure_future(thread.run(lambda: ran.append("second")))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        release.set()
        assert await first
        await thread.run(lambda: ran.append("third"))

    asyncio.run(work())
    assert ran == ["third"]


def test_the_thread_ends_where_no_call_waits_and_the_next_call_gets_another() -> None:
    async def work() -> tuple[threading.Thread, threading.Thread]:
        mine, asked = SerialThread("mine"), threading.Event()
        waiting = asyncio.ensure_future(mine.run(lambda: asked.wait(5) and threading.current_thread()))
        behind = asyncio.ensure_future(mine.run(threading.current_thread))
        await asyncio.sleep(0)
        asked.set()
        first = await waiting
        assert first and await behind is first
        first.join(5)
        assert not first.is_alive()
        return first, await mine.run(threading.current_thread)

    first, second = asyncio.run(work())
    assert first is not second and second.name == "mine"


def test_calls_from_many_loops_each_run_once_and_never_two_at_a_time() -> None:
    shared, seen, inside = SerialThread("shared"), [], threading.Semaphore()

    def call(number: int) -> None:
        assert inside.acquire(blocking=False)
        seen.append(number)
        inside.release()

    async def work(first: int) -> None:
        for number in range(first, first + 200):
            await shared.run(lambda number=number: call(number))

    loops = [threading.Thread(target=lambda first=first: asyncio.run(work(first))) for first in range(0, 800, 200)]
    for each in loops:
        each.start()
    for each in loops:
        each.join(30)
    assert sorted(seen) == list(range(800))


def test_closing_refuses_cancels_what_waits_and_ends_the_thread() -> None:
    release, ran = threading.Event(), []

    async def work() -> None:
        thread = SerialThread("closing")
        first = asyncio.ensure_future(thread.run(lambda: release.wait(5)))
        second = asyncio.ensure_future(thread.run(lambda: ran.append("second")))
        await asyncio.sleep(0.05)
        thread.close()
        with pytest.raises(asyncio.CancelledError):
            await second
        with pytest.raises(RuntimeError, match="closing is closed"):
            await thread.run(lambda: None)
        release.set()
        assert await first  # what has begun is finished

    asyncio.run(work())
    assert ran == []
    for each in threading.enumerate():
        if each.name == "closing":
            each.join(timeout=5)
            assert not each.is_alive()


def test_a_call_that_never_ends_does_not_keep_the_process() -> None:
    program = """
import asyncio, threading
from gkd_dist.serial import SerialThread, is_at_work
async def work():
    thread = SerialThread("hung")
    try:
        await asyncio.wait_for(thread.run(threading.Event().wait), 0.1)
    except TimeoutError:
        thread.close()
        print("gave up")
asyncio.run(work())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "gave up\n"


def test_who_ends_the_process_can_see_that_a_call_is_in_progress() -> None:
    release = threading.Event()

    async def work() -> list[bool]:
        thread = SerialThread("mine")
        call = asyncio.ensure_future(thread.run(release.wait))
        seen = [is_at_work()]
        while not is_at_work():
            await asyncio.sleep(0.001)
        seen.append(is_at_work())
        release.set()
        await call
        thread.close()
        while is_at_work():
            await asyncio.sleep(0.001)
        return [*seen, is_at_work()]

    assert asyncio.run(asyncio.wait_for(work(), 10)) == [False, True, False]
