"""Where an actor's process is, so that it can be ended from outside when it does not listen any more."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil
import ray

_SAME_START_S = 2.0
"""The kernel's clock ticks, and the clock it is compared with may be set meanwhile."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that no other one is taken for: numbers are used again, later."""

    pid: int
    started: float
    """Seconds since the epoch."""

    @classmethod
    def of(cls, process: psutil.Process) -> "ProcessId":
        return cls(process.pid, process.create_time())

    def find(self) -> psutil.Process | None:
        """None when it is gone."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < _SAME_START_S:
                return process
        return None


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """The process of an actor and those that it started."""

    process: ProcessId
    children: tuple[ProcessId, ...]
    node: str
    """Ray's name of the node, hexadecimal."""
    host: str
    """Process numbers mean the same where this is the same."""

    @classmethod
    def here(cls) -> "Whereabouts":
        """Of the calling actor."""
        process = psutil.Process()
        children = []
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                children.append(ProcessId.of(child))
        return cls(ProcessId.of(process), tuple(children), ray.get_runtime_context().get_node_id(), this_host())

    @property
    def facts(self) -> dict[str, str | int]:
        """What is shown of it."""
        return {"pid": self.process.pid, "node": self.node}

    def end(self) -> None:
        """SIGKILL to all of them that still live on this host, also to stopped ones; elsewhere Ray has to do it."""
        if self.host == this_host():
            for process in self._alive():
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def _alive(self) -> Iterator[psutil.Process]:
        for known in (self.process, *self.children):
            process = known.find()
            if process is not None:
                with suppress(psutil.NoSuchProcess):
                    yield from process.children(recursive=True)
                yield process


def this_host() -> str:
    """Names a table of processes: containers on one machine have one each."""
    return (
        f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
        if os.path.exists("/proc/self/ns/pid")
        else (socket.gethostname())
    )
