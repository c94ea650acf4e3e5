"""Where the commands of runs are carried out, as this room sees it; `cluster/seats.py` is what it is made of."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol


class Ending(Protocol):
    """How a command ended."""

    @property
    def exit_code(self) -> int:
        """Negative: ended by that signal."""
        ...

    @property
    def wall_s(self) -> float: ...

    @property
    def cpu_s(self) -> float:
        """User and system time, of what it waited for too."""
        ...


class Seat(Protocol):
    """Reserved processors on some machine; one command at a time."""

    async def run(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Ending:
        """Carry out a command to its end; what it prints is added to `log`.

        Args:
            environment: on top of that of the machine.

        Raises:
            EngineError: the seat is gone, and the command with it.
        """
        ...

    async def stop(self) -> None:
        """Ask the command to end in order (SIGTERM); `run` returns when it has. One that comes later is not begun."""
        ...


class Launcher(Protocol):
    @property
    def num_cpus(self) -> float:
        """Of all machines together, now."""
        ...

    @property
    def num_gpus(self) -> float: ...

    def seat(self, num_cpus: float, num_gpus: float) -> AbstractAsyncContextManager[Seat]:
        """Entered once the processors and GPUs are free; nothing of it is left after the block.

        Raises:
            EngineError: no seat could be had.
            ResourceError: nor will another be: there is no machine left.
        """
        ...
