"""A command from start to end: how long it takes, and how much memory all of its processes have together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

PERIOD_S = 2.0
"""Looking at a process's pages costs milliseconds."""
SHOWN_CHARACTERS = 2000


class CommandError(RuntimeError):
    """A command that ended with an error; says which, and the end of what it printed."""


def end_whole() -> None:
    """Make SIGTERM end this process as Ctrl-C does, so that what it measures is ended too."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def measure(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run `command`, print nothing, and return `whole_s` and `peak_pss_mib`.

    Memory is the largest sum over the process and its descendants of their proportional share (PSS: a page that n
    processes share counts 1/n in each), looked at every two seconds.

    Raises:
        CommandError: it ended otherwise than with 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began, peak = time.monotonic(), 0
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command), stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        try:
            while True:
                try:
                    process.wait(PERIOD_S)
                    break
                except subprocess.TimeoutExpired:
                    peak = max(peak, proportional_bytes(process.pid))
        finally:
            if process.poll() is None:
                process.terminate()  # ours ends its actors by itself
                process.wait()
    whole_s = time.monotonic() - began
    if process.returncode != 0:
        end = log.read_text(errors="replace")[-SHOWN_CHARACTERS:]
        raise CommandError(f"{command[0]} ended with {process.returncode}; the end of {log}:\n{end}")
    return {"whole_s": round(whole_s, 2), "peak_pss_mib": peak >> 20}


def proportional_bytes(pid: int) -> int:
    """PSS of a process and its descendants; those that end meanwhile count nothing."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for each in family:
        try:
            total += each.memory_full_info().pss
        except psutil.Error:
            continue
    return total
