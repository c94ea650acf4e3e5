"""Replicas that do what a test says, and a launcher for them: no process, no time."""

import asyncio
from collections.abc import Sequence

from gkd_dist.errors import DeadlineError, EngineError


class FakeReplica:
    """Works on a request until the test finishes it, it is killed, or it hangs.

    Args:
        slot: where it was started.
        pid: which start it was, from 1.
    """

    def __init__(self, slot: int, pid: int) -> None:
        self.slot = slot
        self.pid = pid
        self.is_alive = True
        self.is_hung = False
        self.is_killed = False
        """By its launcher."""
        self.closed = False
        self.asked: list[int] = []
        self.pending: dict[int, asyncio.Future[int]] = {}
        self.cancelled: list[int] = []
        self.loaded: list[int] = []
        """Obligations done, in their order."""
        self.hold_obligations = False
        self.held: list[tuple[int, asyncio.Future[None]]] = []
        self.obligation_error: Exception | None = None

    async def serve(self, number: int) -> int:
        """Answers `number` when the test says so."""
        self._check()
        self.asked.append(number)
        self.pending[number] = asyncio.get_running_loop().create_future()
        try:
            return await self.pending[number]
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            del self.pending[number]

    async def load(self, number: int) -> None:
        """Does obligation `number`, at once or when it is released."""
        self._check()
        if self.hold_obligations:
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.held.append((number, gate))
            await gate
        if self.obligation_error is not None:
            raise self.obligation_error
        self.loaded.append(number)

    def finish(self, number: int) -> None:
        self.pending[number].set_result(number)

    def fail(self, number: int, error: Exception) -> None:
        self.pending[number].set_exception(error)

    def release(self) -> None:
        """Held obligations go on."""
        self.hold_obligations = False
        for _, gate in self.held:
            if not gate.done():
                gate.set_result(None)
        self.held.clear()

    def die(self) -> None:
        """As by SIGKILL: what it worked on fails at once."""
        self.is_alive = False
        waiting: Sequence[asyncio.Future[int] | asyncio.Future[None]] = [
            *self.pending.values(), *(gate for _, gate in self.held)
        ]  # fmt: skip
        for future in waiting:
            if not future.done():
                future.set_exception(EngineError(f"pid {self.pid} died"))

    async def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if not self.is_alive:
            raise EngineError(f"pid {self.pid} is dead")


class FakeLauncher:
    """Implements `supervision.slots.Launcher`.

    Args:
        errors: of the starts to come, by slot; None is a start that succeeds, which is also what follows the last.
    """

    def __init__(self, errors: dict[int, list[Exception | None]] | None = None) -> None:
        self.errors = errors or {}
        self.replicas: list[FakeReplica] = []
        """Everything that was ever started."""
        self.waits: dict[int, str] = {}
        """What starts under way wait for, by slot."""
        self.num_starts = 0
        self.probed: list[int] = []
        """Slots."""
        self.hold_starts = False
        self.hold_kills = False
        self._gate = asyncio.Event()

    def running(self, slot: int) -> FakeReplica:
        """The present replica of a slot."""
        return next(each for each in reversed(self.replicas) if each.slot == slot)

    @property
    def left(self) -> list[FakeReplica]:
        """Replicas that nobody has ended."""
        return [each for each in self.replicas if not each.is_killed]

    def release(self) -> None:
        """Held starts and kills go on."""
        self.hold_starts = self.hold_kills = False
        self._gate.set()
        self._gate = asyncio.Event()

    def waits_for(self, slot: int) -> str:
        return self.waits.get(slot, "")

    async def start(self, slot: int) -> FakeReplica:
        self.num_starts += 1
        if any(each.slot == slot for each in self.left):
            raise AssertionError(f"slot {slot} is started while its former replica was not killed")
        planned = self.errors.get(slot, [])
        error = planned.pop(0) if planned else None
        if self.hold_starts:
            await self._gate.wait()
        if error is not None:
            raise error
        self.replicas.append(FakeReplica(slot, self.num_starts))
        return self.replicas[-1]

    def num_probes(self, slot: int) -> int:
        return self.probed.count(slot)

    async def probe(self, replica: FakeReplica) -> None:
        self.probed.append(replica.slot)
        if not replica.is_alive:
            raise EngineError(f"pid {replica.pid} is dead")
        if replica.is_hung:
            raise DeadlineError(f"pid {replica.pid} did not answer")

    async def kill(self, replica: FakeReplica) -> None:
        if self.hold_kills:
            await self._gate.wait()
        replica.die()
        replica.is_killed = True

    def describe(self, replica: FakeReplica) -> dict[str, str | int]:
        return {"pid": replica.pid, "node": "here"}
