"""Sharing requests between replicas."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.pipeline.routing import spread


@given(st.integers(0, 40), st.integers(1, 7))
def test_results_keep_the_order_and_shares_differ_by_one_at_most(num_items: int, num_replicas: int) -> None:
    sizes = [0] * num_replicas

    async def call(replica: int, share: Sequence[int]) -> list[int]:
        sizes[replica] += len(share)
        await asyncio.sleep(0)
        return [item * 10 for item in share]

    results = asyncio.run(spread(range(num_replicas), range(num_items), call))
    assert results == [item * 10 for item in range(num_items)]
    assert max(sizes) - min(sizes) <= 1


def test_a_failing_replica_fails_the_call() -> None:
    async def call(replica: int, share: Sequence[int]) -> list[int]:
        if replica == 1:
            raise RuntimeError("down")
        return list(share)

    with pytest.raises(RuntimeError, match="down"):
        asyncio.run(spread([0, 1], range(4), call))
