"""Time that is a number: it passes only when nothing else can, and the same program runs the same way."""

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.simulation.virtual_loop import TICK_S, DeadlockError, VirtualLoop, run_virtual

DELAYS = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=30)


@given(delays=DELAYS)
@settings(max_examples=50, deadline=None)
def test_timers_go_off_in_order_at_their_times(delays: list[float]) -> None:
    woken: list[tuple[float, float]] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((seconds, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(*map(sleeper, delays))

    run_virtual(main())
    assert all(seconds <= now <= seconds + TICK_S for seconds, now in woken)
    assert [now for _, now in woken] == sorted(now for _, now in woken)


@given(delays=DELAYS, turns=st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_no_time_passes_while_something_is_ready(delays: list[float], turns: int) -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        sleepers = [asyncio.create_task(asyncio.sleep(1e-6 + each)) for each in delays]
        times = []
        for _ in range(turns):
            await asyncio.sleep(0)
            times.append(loop.time())
        await asyncio.gather(*sleepers)
        return times

    assert set(run_virtual(main())) == {0.0}


@given(start=st.floats(0.0, 1e6), pause=st.floats(1e-12, 10.0))
@settings(max_examples=50, deadline=None)
def test_who_waits_for_a_moment_finds_that_it_has_come(start: float, pause: float) -> None:
    """However the sums round: else a loop that looks at the clock and sleeps for the rest would turn for ever."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(start)
        due, num_looks = loop.time() + pause, 0
        while loop.time() < due:
            num_looks += 1
            await asyncio.sleep(due - loop.time())
        return num_looks

    assert run_virtual(main()) <= 1


def test_timeouts_and_cancellation_follow_the_clock() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7.5):
                await asyncio.sleep(8.0)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 7.5


def test_waiting_for_what_never_comes_is_an_error_that_names_it() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.sleep(3.0)
        await asyncio.gather(waits_for_ever(), waits_for_ever())

    with pytest.raises(DeadlockError, match=r"second 3,.*2 x .*waits_for_ever"):
        run_virtual(main())


def test_the_clock_stands_while_a_thread_works() -> None:
    begun = threading.Event()

    async def main() -> tuple[float, float, bool]:
        loop = asyncio.get_running_loop()
        nap = asyncio.create_task(asyncio.sleep(1.0))
        went_on = await asyncio.to_thread(begun.wait, 30.0) if begun.is_set() else await meet()
        after = loop.time()
        await nap
        return after, loop.time(), went_on

    async def meet() -> bool:
        work = asyncio.create_task(asyncio.to_thread(begun.wait, 30.0))
        await asyncio.sleep(0)
        begun.set()
        return await work

    assert run_virtual(main()) == (0.0, 1.0, True)


@given(seeds=st.lists(st.integers(0, 9), min_size=2, max_size=20))
@settings(max_examples=30, deadline=None)
def test_the_same_program_runs_in_the_same_order(seeds: list[int]) -> None:
    def once() -> list[tuple[int, float]]:
        seen: list[tuple[int, float]] = []
        lock = None

        async def worker(number: int, pause: int) -> None:
            for turn in range(3):
                await asyncio.sleep(pause * 0.5)
                async with lock:
                    await asyncio.sleep(turn * 0.25)
                    seen.append((number, asyncio.get_running_loop().time()))

        async def main() -> None:
            nonlocal lock
            lock = asyncio.Lock()
            await asyncio.gather(*(worker(number, pause) for number, pause in enumerate(seeds)))

        run_virtual(main())
        return seen

    assert once() == once()


def test_a_loop_begins_at_zero_and_counts_its_jumps() -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(asyncio.sleep(2.0))
        assert (loop.time(), loop.num_jumps) == (2.0, 1)
    finally:
        loop.close()
