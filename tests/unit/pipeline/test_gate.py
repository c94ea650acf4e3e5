"""The version gate."""

import asyncio

import pytest

from gkd_dist.pipeline.gate import VersionGate


def test_waiting_ends_when_the_version_is_live() -> None:
    async def scenario() -> list[str]:
        gate, events = VersionGate(), []

        async def waiter() -> None:
            await gate.wait_for(2)
            events.append("through")

        task = asyncio.create_task(waiter())
        await gate.open(1)
        await asyncio.sleep(0)
        events.append("version 1")
        await gate.open(2)
        await task
        return events

    assert asyncio.run(scenario()) == ["version 1", "through"]


def test_versions_only_grow() -> None:
    async def scenario() -> None:
        gate = VersionGate(3)
        await gate.open(3)
        await gate.open(2)

    with pytest.raises(ValueError, match="only grow"):
        asyncio.run(scenario())
