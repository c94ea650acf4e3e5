"""Replicas that are there already, as a launcher that starts none."""

from collections.abc import Sequence
from typing import Generic

from gkd_dist.supervision.slots import Replica


class Given(Generic[Replica]):
    """Implements `Launcher` for replicas that somebody else started."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas

    async def start(self, slot: int) -> Replica:
        return self._replicas[slot]

    def waits_for(self, slot: int) -> str:  # noqa: ARG002 - of the Protocol
        """They are there."""
        return ""

    async def probe(self, replica: Replica) -> None:
        """Taken for granted."""

    async def kill(self, replica: Replica) -> None:
        """It was closed, and runs in this process."""

    def describe(self, replica: Replica) -> dict[str, str | int]:
        return {"type": type(replica).__name__}
