"""Named places where a test can make this process fail (floor F0); nothing happens unless it asks.

`GKD_FAULTS` names them: entries with `;` between them, each `NAME:ACTION@HIT` (`@HIT` defaults to 1), for example
`learner.after_backward:kill@3;teacher.score:delay=2`. `GKD_FAULTS_WITNESS` is a folder: an entry fires once per
folder, whatever the number of processes and restarts, and leaves a file `NAME.ACTION.HIT` with the pid there, the
proof that the fault happened. Without the folder an entry fires once per process.

Actions: `kill` (SIGKILL to itself), `exit` (at once, status 1, nothing cleaned up), `stop` (SIGSTOP), `segfault`,
`raise` (EngineError), `cancel` (asyncio.CancelledError: what runs is given up without a word), `hang` (for ever; an
asyncio loop in this thread stands still), `delay=SECONDS`, `gil=SECONDS` (as delay, without letting other threads run).
"""

import asyncio
import faulthandler
import os
import signal
import time
from collections import Counter
from pathlib import Path

from gkd_dist.errors import EngineError

_ENTRIES = "GKD_FAULTS"
_WITNESS = "GKD_FAULTS_WITNESS"
_hits: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Production code passes here; see the module. Costs one look-up where no fault is asked for.

    Raises:
        EngineError: where the action is `raise`.
        asyncio.CancelledError: where it is `cancel`.
    """
    if _ENTRIES not in os.environ:
        return
    _hits[name] += 1
    for entry in os.environ[_ENTRIES].split(";"):
        place, _, rest = entry.strip().partition(":")
        action, _, hit = rest.partition("@")
        if place == name and _hits[name] == int(hit or 1) and _claim(f"{name}.{action}.{hit or 1}"):
            _fail(name, action)


def _claim(witness: str) -> bool:
    """Whether this process is the first to fire the entry."""
    folder = os.environ.get(_WITNESS)
    if folder is None:
        return True
    try:
        with (Path(folder) / witness).open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def _fail(name: str, action: str) -> None:
    kind, _, amount = action.partition("=")
    match kind:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(1)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "segfault":
            faulthandler._sigsegv()  # type: ignore[attr-defined]
        case "raise":
            raise EngineError(f"fault point {name}")
        case "cancel":
            raise asyncio.CancelledError(f"fault point {name}")
        case "hang":
            while True:
                time.sleep(3600)
        case "delay":
            time.sleep(float(amount))
        case "gil":
            _hold_the_gil(float(amount))
        case _:
            raise ValueError(f"{_ENTRIES}: no action {action!r} at {name}")


def _hold_the_gil(seconds: float) -> None:
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # PyDLL, unlike CDLL, keeps the lock
