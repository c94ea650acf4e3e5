"""Processes that a test has started."""

from collections.abc import Iterable
from contextlib import suppress

import psutil


def family_of(pid: int) -> list[psutil.Process]:
    """The process with all that descends from it; none where it has ended."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    """Neither ended nor a zombie that waits for its parent."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to each; one that has just ended by itself is no error."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
