"""Requests that wait together share a call; each gets its own results and its own errors."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.engines.coalescing import Coalescer
from gkd_dist.errors import EngineError

LIMIT_S = 20.0


class Engine:
    """Doubles numbers, and keeps what it was called with. Its first call waits until it is let go."""

    def __init__(self, *, hold: bool = False) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.entered, self.go_on = threading.Event(), threading.Event()
        if not hold:
            self.go_on.set()

    def work(self, key: str, items: list[int]) -> list[int]:
        self.calls.append((key, items))
        self.entered.set()
        if not self.go_on.wait(LIMIT_S):
            raise TimeoutError
        if any(item < 0 for item in items):
            raise ValueError(f"negative in {items}")
        return [2 * item for item in items]


def run(engine: Engine, use: Callable[[Coalescer], Awaitable[object]], max_items: int = 8) -> object:
    async def main() -> object:
        requests: Coalescer[str, int, int] = Coalescer("test", engine.work, max_items=max_items)
        try:
            return await asyncio.wait_for(use(requests), LIMIT_S)
        finally:
            requests.close()

    return asyncio.run(main())


async def while_busy(
    engine: Engine, requests: Coalescer, others: Callable[[], list[Awaitable[object]]]
) -> list[object]:
    """Results of `others`, all of which are made while a first call is in progress."""
    first = asyncio.create_task(requests.ask("first", [0]))
    await asyncio.to_thread(engine.entered.wait, LIMIT_S)
    waiting = [asyncio.ensure_future(each) for each in others()]
    for _ in range(5):  # turns of the loop: all are made, and one that is cancelled knows it
        await asyncio.sleep(0)
    engine.go_on.set()
    assert await first == [0]
    return await asyncio.gather(*waiting, return_exceptions=True)


def test_what_waits_during_a_call_is_one_call_after_it() -> None:
    engine = Engine(hold=True)
    answers = run(
        engine,
        lambda requests: while_busy(
            engine, requests, lambda: [requests.ask("a", [1]), requests.ask("a", [2, 3]), requests.ask("a", [4])]
        ),
    )
    assert answers == [[2], [4, 6], [8]]
    assert engine.calls == [("first", [0]), ("a", [1, 2, 3, 4])]


def test_a_burst_to_an_idle_engine_is_one_call() -> None:
    engine = Engine()
    answers = run(engine, lambda requests: asyncio.gather(*(requests.ask("a", [item]) for item in range(5))))
    assert answers == [[0], [2], [4], [6], [8]]
    assert engine.calls == [("a", [0, 1, 2, 3, 4])]


def test_a_call_has_at_most_so_many_items_unless_one_request_has_more() -> None:
    engine = Engine(hold=True)
    run(
        engine,
        lambda requests: while_busy(
            engine, requests, lambda: [requests.ask("a", items) for items in ([1], [2], [3], [4, 5, 6, 7], [8])]
        ),
        max_items=2,
    )
    assert [items for _, items in engine.calls[1:]] == [[1, 2], [3], [4, 5, 6, 7], [8]]


def test_other_keys_are_other_calls() -> None:
    engine = Engine(hold=True)
    run(
        engine,
        lambda requests: while_busy(engine, requests, lambda: [requests.ask(key, [1]) for key in ("a", "a", "b", "a")]),
    )
    assert engine.calls[1:] == [("a", [1, 1]), ("b", [1]), ("a", [1])]


def test_nothing_is_moved_over_what_has_to_wait_its_turn() -> None:
    engine = Engine(hold=True)
    run(
        engine,
        lambda requests: while_busy(
            engine,
            requests,
            lambda: [
                requests.ask("a", [1]),
                requests.in_turn(lambda: engine.calls.append(("update", []))),
                requests.ask("a", [2]),
                requests.ask("a", [3]),
            ],
        ),
    )
    assert engine.calls[1:] == [("a", [1]), ("update", []), ("a", [2, 3])]


@pytest.mark.parametrize("cancelled", [0, 1, 2, 3])
def test_a_cancelled_request_is_left_out_and_the_others_are_answered(cancelled: int) -> None:
    """Also one that has to wait its turn, and the first of those that would share a call."""
    engine = Engine(hold=True)

    async def use(requests: Coalescer) -> list[object]:
        def others() -> list[Awaitable[object]]:
            made = [
                asyncio.ensure_future(each)
                for each in (
                    requests.ask("a", [1]),
                    requests.ask("a", [2]),
                    requests.in_turn(lambda: "turn"),
                    requests.ask("a", [3]),
                )
            ]
            asyncio.get_running_loop().call_soon(made[cancelled].cancel)
            return list(made)

        return await while_busy(engine, requests, others)

    answers = run(engine, use)
    expected: list[object] = [[2], [4], "turn", [6]]
    for index, answer in enumerate(answers):
        if index == cancelled:
            assert isinstance(answer, asyncio.CancelledError)
        else:
            assert answer == expected[index]
    assert sorted(item for _, items in engine.calls for item in items if item) == [
        item for index, item in ((0, 1), (1, 2), (3, 3)) if index != cancelled
    ]


def test_an_error_reaches_its_own_caller_alone() -> None:
    engine = Engine(hold=True)
    answers = run(
        engine,
        lambda requests: while_busy(engine, requests, lambda: [requests.ask("a", [item]) for item in (1, -2, 3)]),
    )
    assert answers[0] == [2]
    assert isinstance(answers[1], ValueError)
    assert str(answers[1]) == "negative in [-2]"
    assert answers[2] == [6]


def test_no_items_need_no_call_and_a_closed_one_says_so() -> None:
    engine = Engine()

    async def use(requests: Coalescer) -> None:
        assert await requests.ask("a", []) == []
        requests.check()
        requests.close()
        with pytest.raises(EngineError):
            requests.check()

    run(engine, use)
    assert engine.calls == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(-2, 9), max_size=4)), max_size=12),
    st.integers(1, 6),
)
def test_every_request_gets_its_own_results_in_order(requests: list[tuple[str, list[int]]], max_items: int) -> None:
    engine = Engine()
    answers = run(
        engine,
        lambda coalescer: asyncio.gather(*(coalescer.ask(*each) for each in requests), return_exceptions=True),
        max_items,
    )
    for (_, items), answer in zip(requests, answers, strict=True):
        if any(item < 0 for item in items):
            assert isinstance(answer, ValueError)
        else:
            assert answer == [2 * item for item in items]
