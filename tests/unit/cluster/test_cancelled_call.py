"""A call of an actor that is cancelled while its answer arrives."""

import asyncio
from typing import Any

import pytest

from gkd_dist.cluster.proxies import Proxy


@pytest.mark.parametrize("num_turns", range(8))
def test_a_cancellation_is_never_lost_to_an_answer_that_comes_with_it(num_turns: int) -> None:
    """The task goes on otherwise, as if nobody had cancelled it: a ring that fails would train for ever."""

    async def go() -> bool:
        arrives = asyncio.Event()

        async def answer() -> str:
            await arrives.wait()
            for _ in range(num_turns):
                await asyncio.sleep(0)
            return "answer"

        async def asks_for_ever() -> None:
            while True:
                await proxy._await(answer(), "answer")
                arrives.clear()

        proxy = Proxy.__new__(Proxy)
        proxy.__dict__.update(_timeout_s=60.0, _name="sampler 0", _actor=None)
        for turns_before in range(8):
            arrives = asyncio.Event()
            task: asyncio.Task[Any] = asyncio.create_task(asks_for_ever())
            await asyncio.sleep(0)
            arrives.set()
            for _ in range(turns_before):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=5)
            if not done:
                return False
        return True

    assert asyncio.run(go())
