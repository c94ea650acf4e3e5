"""The version gate: samplers may begin a step only when weights new enough are live."""

import asyncio


class VersionGate:
    """The newest policy version that every sampler holds.

    `sampling` waits on it, `publishing` opens it. Capacity bounds staleness: a step that begins when version v is
    live cannot be older than v when it is trained.
    """

    def __init__(self, version: int = 0) -> None:
        self._version = version
        self._condition = asyncio.Condition()

    @property
    def version(self) -> int:
        return self._version

    async def open(self, version: int) -> None:
        """Version `version` is live on every sampler."""
        async with self._condition:
            if version < self._version:
                raise ValueError(f"version {version} after version {self._version}: versions only grow")
            self._version = version
            self._condition.notify_all()

    async def wait_for(self, version: int) -> None:
        """Return once `version` or a newer one is live."""
        async with self._condition:
            await self._condition.wait_for(lambda: self._version >= version)
