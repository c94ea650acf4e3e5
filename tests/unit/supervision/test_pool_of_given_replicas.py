"""Replicas that are given: shared work, no supervision, and errors as they were raised."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import EngineError, RejectedError
from gkd_dist.supervision.health import State
from gkd_dist.supervision.pool import Pool


class Part:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[object] = []
        self.closed = False

    async def work(self, items: Sequence[int]) -> list[int]:
        self.asked.append(list(items))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return [item * 10 for item in items]

    async def close(self) -> None:
        self.closed = True


def ask(part: Part, items: Sequence[int]) -> "asyncio.Future[list[int]]":
    return asyncio.ensure_future(part.work(items))


@given(st.integers(0, 40), st.integers(1, 7))
def test_results_keep_the_order_and_shares_differ_by_one_at_most(num_items: int, num_replicas: int) -> None:
    parts = [Part() for _ in range(num_replicas)]
    results = asyncio.run(Pool.of(parts).spread(range(num_items), ask))
    assert results == [item * 10 for item in range(num_items)]
    sizes = [sum(len(items) for items in part.asked) for part in parts]  # type: ignore[arg-type, misc]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("error", [EngineError("down"), RejectedError("too long"), RuntimeError("a mistake")])
def test_the_error_of_a_lone_replica_is_raised_as_it_was_after_one_try(error: Exception) -> None:
    part = Part(error)
    with pytest.raises(type(error)) as caught:
        asyncio.run(Pool.of([part]).call(lambda each: each.work([1]), "work"))
    assert caught.value is error
    assert error.__cause__ is None
    assert part.asked == [[1]]


def test_another_given_replica_answers_for_a_broken_one() -> None:
    broken, sound = Part(EngineError("down")), Part()
    assert asyncio.run(Pool.of([broken, sound]).spread([1, 2, 3, 4], ask)) == [10, 20, 30, 40]
    assert broken.asked == [[1, 2]]
    assert sound.asked == [[3, 4], [1, 2]]


def test_a_request_is_asked_as_often_as_the_rules_say() -> None:
    parts = [Part(EngineError("down")) for _ in range(3)]
    pool = Pool.of(parts, SupervisionConfig(infra_attempts=2))
    with pytest.raises(EngineError, match="down"):
        asyncio.run(pool.call(lambda part: part.work([1]), "work"))
    assert sum(len(part.asked) for part in parts) == 2


def test_given_replicas_stay_in_service_whatever_they_raise() -> None:
    pool = Pool.of([Part(EngineError("down"))])

    async def run() -> None:
        for _ in range(10):
            with pytest.raises(EngineError, match="down"):
                await pool.call(lambda part: part.work([1]), "work")

    asyncio.run(run())
    assert pool.states == {0: State.HEALTHY}


def test_an_obligation_that_fails_is_raised() -> None:
    error = EngineError("no weights")
    parts = [Part(), Part(error)]
    with pytest.raises(EngineError) as caught:
        asyncio.run(Pool.of(parts).bring_up(lambda part: part.work([7])))
    assert caught.value is error
    assert [part.asked for part in parts] == [[[7]], [[7]]]


def test_their_number_cannot_change() -> None:
    with pytest.raises(ValueError, match="given"):
        Pool.of([Part()]).set_target(2)


def test_closing_the_pool_closes_every_replica() -> None:
    parts = [Part(), Part()]
    asyncio.run(Pool.of(parts).close())
    assert [part.closed for part in parts] == [True, True]
